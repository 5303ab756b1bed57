"""Building a database: plan, encoding, shards, fusion, writing; here or on a cluster.

An interrupted build resumes.
"""
