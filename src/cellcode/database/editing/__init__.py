"""Databases out of databases: grow, clip, split, merge, compress, new imagery.

Cells that are not edited remain byte-identical.
"""
