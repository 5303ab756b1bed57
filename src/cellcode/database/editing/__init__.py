"""Databases out of databases; cells that are not edited remain byte-identical."""
