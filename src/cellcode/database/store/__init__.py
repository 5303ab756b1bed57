"""The database folder: its layout, opening and checking it, and the files it is made of.

Knows nothing of how a database is built.
"""
