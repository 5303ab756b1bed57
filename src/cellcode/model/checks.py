"""What plug-ins return, compared with what was expected."""

from torch import Tensor

from cellcode.errors import PluginError


def require_shape(who: str, what: str, value: object, *shape: int | None) -> None:
    """Require a tensor of a shape, whose None stand for any size; `who` returned it, such as "aggregation mypool:Pool".

    Raises:
        PluginError: it is something else.
    """
    given = tuple(value.shape) if isinstance(value, Tensor) else None
    if given is None or len(given) != len(shape) or any(b not in (None, a) for a, b in zip(given, shape, strict=True)):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        found = f"shape {given}" if given is not None else f"a {type(value).__name__}"
        raise PluginError(f"{who}: expected {what} of shape ({expected}), and it returned {found}")
