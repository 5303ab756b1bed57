"""The command line: one thin function per command. What a command does is in the other packages, imported when it runs."""

import argparse
import logging
import os
import sys
import traceback
from typing import Literal

import typer

from cellcode import log, plugins
from cellcode.cli import databases, info, queries, recipe, sources
from cellcode.distributed import torchrun
from cellcode.errors import CellcodeError, UsageError, sentence
from cellcode.log import silence

logger = logging.getLogger(__name__)
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
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error (any command)."),
    quiet: bool = typer.Option(False, "--quiet", help="Show warnings and errors only, no progress (any command)."),
    log_format: Literal["text", "json"] = typer.Option(
        "text", "--log-format", help="Messages on stderr: text, or one JSON object per line (any command)."
    ),
    allow_private: bool = typer.Option(
        False, "--allow-private", help="Allow sources on private networks (any command)."
    ),
    plugin: str | None = typer.Option(
        None, "--plugin", metavar="MODULE", help="Let runs and databases import this module (any command)."
    ),
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True, callback=_print_version),
) -> None:
    """Visual geo-localization: a photo taken on the ground goes in, a place on the map comes out."""


for verb in (
    sources.simulate, recipe.plan, sources.ingest, sources.pack, recipe.train, recipe.build, recipe.evaluate, queries.locate,
    queries.verify, queries.serve, info.info, sources.presets, databases.clip, databases.split, databases.merge,
    databases.compress, databases.grow, databases.export, sources.pmtiles, recipe.demo,
):  # fmt: skip
    app.command()(verb)
app.add_typer(info.config)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit 0, 2 on bad usage, 1 on failure with one sentence."""
    given = sys.argv[1:] if arguments is None else arguments
    for name in ("stdin", "stdout", "stderr"):  # one that is closed would be the number of the next file that is opened
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115
    try:
        everywhere, given = _everywhere(given)
    except CellcodeError as error:
        _report(error)
        sys.exit(error.exit_code)
    with log.installed(everywhere.log_format, quiet=everywhere.quiet):
        _run(given, everywhere.debug, as_json=everywhere.log_format == "json")


def _everywhere(given: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take the options that work behind any command out of the arguments, wherever they stand, and apply them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--debug", "--quiet", "--allow-private"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--plugin", action="append", nargs="?", const="", default=[])
    try:
        found, left = parser.parse_known_args(given)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error.argument_name}: {error.message}") from None
    if "" in found.plugin:
        raise UsageError("--plugin needs the name of a module")
    if found.plugin:
        plugins.allow(*found.plugin)
    if found.allow_private:
        from cellcode.http import allow_private

        allow_private()
    return found, left


def _run(given: list[str], debug: bool, as_json: bool) -> None:
    try:
        try:
            app(given or ["--help"])
        finally:
            sys.stdout.flush()  # now, while it can be said that it fails
    except CellcodeError as error:
        if debug:
            traceback.print_exc()
        _report(error, as_json)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        _report(error, as_json)
        sys.exit(130)
    except BrokenPipeError:  # the reader of stdout has gone, as `head` does
        silence(sys.stdout)
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:
            silence(sys.stdout)  # what is left of the results would fail again when Python ends
        if debug:
            raise
        _report(error, as_json)
        sys.exit(1)


def _report(error: BaseException, as_json: bool = False) -> None:
    """Print in one sentence why the command fails; one of several processes leaves that to torchrun."""
    text = f"cellcode: {sentence(error)}"
    if torchrun.report(text):
        return
    if as_json:
        logger.error(text)
    else:
        print(text, file=sys.stderr)
