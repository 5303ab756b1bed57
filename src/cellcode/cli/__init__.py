"""The command line: one thin file a verb. What it does is in the other rooms, imported when a verb runs."""

from __future__ import annotations

import sys
import traceback

import typer

from cellcode import log, plugins
from cellcode.cli import (
    build,
    clip,
    compress,
    demo,
    evaluate,
    export,
    grow,
    info,
    ingest,
    locate,
    merge,
    pack,
    plan,
    pmtiles,
    presets,
    serve,
    simulate,
    split,
    train,
    verify,
)
from cellcode.distributed import torchrun
from cellcode.errors import CellcodeError, UsageError, sentence

app = typer.Typer(
    name="cellcode",
    help="Visual geo-localization: a photo taken on the ground goes in, a place on the map comes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        import cellcode

        print(cellcode.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error; works behind any command."),
    allow_private: bool = typer.Option(
        False, "--allow-private", help="Sources may name addresses that are not public; works behind any command."
    ),
    plugin: str | None = typer.Option(
        None, "--plugin", metavar="MODULE", help="Let runs and databases import this module; works behind any command."
    ),
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True, callback=_print_version),
) -> None:
    """Visual geo-localization: a photo taken on the ground goes in, a place on the map comes out."""


for verb in (
    simulate,
    plan,
    ingest,
    pack,
    train,
    build,
    evaluate,
    locate,
    verify,
    serve,
    info,
    presets,
    clip,
    split,
    merge,
    compress,
    grow,
    export,
    pmtiles,
    demo,
):
    app.command(name=verb.__name__.rsplit(".", 1)[1])(verb.command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit 0, 2 on bad usage, 1 on failure with one sentence."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    if "--allow-private" in given:
        from cellcode.http import allow_private

        allow_private()
    quiet = "--quiet" in given
    given = [word for word in given if word not in ("--debug", "--allow-private", "--quiet")]
    try:
        given = _allow_plugins(given)
        log.install(quiet=quiet)
        app(given or ["--help"])
    except CellcodeError as error:
        if debug:
            traceback.print_exc()
        _tell(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        _tell(error)
        sys.exit(130)
    except BrokenPipeError:  # the reader of stdout has gone, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        _tell(error)
        sys.exit(1)


def _allow_plugins(given: list[str]) -> list[str]:
    """Take every `--plugin MODULE` out of the arguments, wherever it stands."""
    words, left = iter(given), list[str]()
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--plugin":
            left.append(word)
        elif module := value if equals else next(words, ""):
            plugins.allow(module)
        else:
            raise UsageError("--plugin needs the name of a module")
    return left


def _tell(error: BaseException) -> None:
    """Say in one sentence why the command fails; one of several processes leaves that to torchrun."""
    text = f"cellcode: {sentence(error)}"
    if not torchrun.tell(text):
        print(text, file=sys.stderr)
