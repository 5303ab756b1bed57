"""The command line: `cellcode`, and `python -m cellcode` for launchers such as torchrun that start modules."""

import sys

from cellcode.errors import sentence, storage_cause


def main() -> None:
    """Run the command line; where there is not even the memory to import it, say so."""
    try:
        from cellcode.cli import main as run
    except Exception as error:
        if storage_cause(error) is None:
            raise
        sys.exit(f"cellcode: {sentence(error)}")
    run()


if __name__ == "__main__":
    main()
