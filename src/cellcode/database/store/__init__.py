"""The database folder: its layout, opening and checking it, and its files. Knows nothing of how one is built."""
