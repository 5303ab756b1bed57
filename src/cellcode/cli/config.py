"""cellcode config."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from cellcode.cli.common import Overrides

app = typer.Typer(name="config", help="List, print and check configurations.", no_args_is_help=True)


@app.command(name="list")
def list_shipped() -> None:
    """List the shipped configurations."""
    from cellcode.config import shipped

    names = shipped()
    for name, line in names.items():
        print(f"{name.ljust(max(map(len, names)))}  {line}")


@app.command()
def show(
    name: Annotated[Path, Argument(help="Name of a shipped configuration, or a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Print a complete configuration: the file, what it extends, and the defaults."""
    from cellcode import config as configuration

    print(configuration.dump(configuration.load(name, overrides or ()), machine=True), end="")


@app.command()
def check(file: Annotated[Path, Argument(help="A YAML configuration.")]) -> None:
    """Check a configuration: exit status 2 if a key or value is wrong, 1 if the file cannot be read."""
    from cellcode import config as configuration

    configuration.load(file)
    print(f"{file}: valid")
