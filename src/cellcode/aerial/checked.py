"""A plug-in's source with its results checked: what is wrong is one sentence that names it, not an error far from its cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cellcode.aerial.missing import Missing
from cellcode.aerial.protocol import AerialSource, Crop
from cellcode.errors import CellcodeError, PluginError
from cellcode.geography import Region
from cellcode.types import Bools


class CheckedSource(AerialSource):
    """An aerial source of a plug-in; identity and footprint are checked at once, crops when they are read.

    Args:
        name: of the plug-in, for messages.
        source: as the plug-in made it.

    Raises:
        PluginError: an attribute or result has another type or shape than `AerialSource` and `Crop` say; so do its methods.
    """

    def __init__(self, name: str, source: AerialSource) -> None:
        self._name, self._source = name, source
        self.identity = self._attribute("identity", str)
        if not self.identity:
            raise self._error("identity must not be empty")
        self.attribution, self.licence = self._attribute("attribution", str), self._attribute("licence", str)
        self.date, self.is_remote = self._attribute("date", str, type(None)), self._attribute("is_remote", bool)
        self._footprint: Region = self._call("footprint", Region)

    def read(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int, bearing_deg: float = 0.0) -> Crop:
        """See `AerialSource.read`."""
        crop: Crop = self._call("read", Crop, lat_deg, lon_deg, size_m, size_px, bearing_deg)
        self._check_array("read() must return pixels", crop.pixels, (size_px, size_px, 3), np.uint8)
        self._check_array("read() must return a mask", crop.mask, (size_px, size_px), np.bool_)
        return crop

    def footprint(self) -> Region:
        """See `AerialSource.footprint`."""
        return self._footprint

    def covers(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> Bools:
        """See `AerialSource.covers`."""
        covered: Bools = self._call("covers", np.ndarray, lat_deg, lon_deg)
        self._check_array("covers() must return an array", covered, np.shape(lat_deg), np.bool_)
        return covered

    def editions(self, count: int) -> list[CheckedSource]:
        """See `AerialSource.editions`."""
        views: Sequence[AerialSource] = self._call("editions", Sequence, count)
        if not 1 <= len(views) <= count or not all(isinstance(view, AerialSource) for view in views):
            raise self._error(f"editions() must return 1 to {count} aerial sources")
        return [self, *(CheckedSource(self._name, view) for view in views[1:])]

    @property
    def missing(self) -> Counter[Missing]:
        """See `AerialSource.missing`."""
        return Counter(self._attribute("missing", Counter))

    def close(self) -> None:
        """See `AerialSource.close`."""
        self._source.close()

    def _attribute(self, name: str, *kinds: type) -> Any:
        value = getattr(self._source, name, None)
        if not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds).replace("NoneType", "None")
            raise self._error(f"{name} must be a {expected}, not {_shown(value)}")
        return value

    def _call(self, name: str, kind: type, *arguments: object) -> Any:
        try:
            value = getattr(self._source, name)(*arguments)
        except CellcodeError:
            raise
        except Exception as error:
            raise self._error(f"{name}() raised {type(error).__name__} ({str(error).partition(chr(10))[0]})") from error
        if not isinstance(value, kind):
            raise self._error(f"{name}() must return a {kind.__name__}, not {_shown(value)}")
        return value

    def _check_array(self, sentence: str, array: object, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
            given = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else _shown(array)
            raise self._error(f"{sentence} of shape {shape} and type {np.dtype(dtype)}, not {given}")

    def _error(self, sentence: str) -> PluginError:
        return PluginError(f"aerial source {self._name}: {sentence}")


def _shown(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
