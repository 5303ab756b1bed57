"""Packed photos: tar shards that training reads from end to end, and how they are written.

A photo table goes in; shards, their tables and a manifest come out.
"""
