"""The photo table: its schema, splits, selections, and the one writer. Knows nothing of where photos come from."""
