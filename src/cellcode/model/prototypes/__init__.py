"""Prototypes: the whole table, the sharded table, clusters and sampled negatives of it, and its optimiser.

A prototype is one learned vector per S2 cell with training photos.
"""
