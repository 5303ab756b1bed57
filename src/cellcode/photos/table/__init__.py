"""The photo table: its schema, batches of it, splits, selections, and the one writer.

Knows nothing of where photos come from.
"""
