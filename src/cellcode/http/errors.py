"""What can go wrong with a server, by a reason that can be counted."""

from cellcode.errors import InputError


class RemoteError(InputError):
    """A request that got no usable answer.

    Args:
        sentence: what happened, with the address but without its secrets.
        reason: a few words without numbers or addresses, the same for the same kind of error: to count by.
        status: of the last answer, None where there was none.
        lasting: a later request will fail as well: it is not a temporary error.
    """

    def __init__(self, sentence: str, reason: str, status: int | None = None, *, lasting: bool = False) -> None:
        super().__init__(sentence)
        self.reason, self.status, self.lasting = reason, status, lasting


class MissingError(RemoteError):
    """The server says that it does not exist (404) or no longer does (410)."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence, "missing", status, lasting=True)
