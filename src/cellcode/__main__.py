"""`python -m cellcode`, for launchers such as torchrun that start modules."""

from cellcode.cli import main

if __name__ == "__main__":
    main()
