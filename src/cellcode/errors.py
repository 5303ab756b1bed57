"""Errors that a user can act on: one sentence that names the file or field, what is wrong and what to do."""


class CellcodeError(Exception):
    """Base of every error raised on purpose; the command line prints its sentence and exits with 1."""

    exit_code = 1


class UsageError(CellcodeError):
    """The request itself cannot be understood (an unknown key, a malformed region); exit status 2."""

    exit_code = 2


class InputError(CellcodeError):
    """A file or value given by the user cannot be used; the sentence names it."""


class PluginError(InputError):
    """A plug-in cannot be used; the sentence names it, and what was expected."""


class EmptyRegionError(InputError):
    """No cell of the level that is asked for has its centre in a region."""


class MissingExtraError(CellcodeError):
    """A package, which an extra of cellcode brings, is needed for a purpose (a noun phrase) and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed: pip install 'cellcode[{extra}]'"
        )


def sentence(error: BaseException) -> str:
    """Return what the command line says of an error."""
    if isinstance(error, CellcodeError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error).splitlines()[0] if str(error) else "no message"
    return f"unexpected {type(error).__name__} ({text}); run again with --debug and report it"
