"""Packed photos: tar shards that training reads from end to end, and how they are written out of a photo table."""
