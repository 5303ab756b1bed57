"""Building a database: plan, encoding, shards, fusion, writing; here or on a cluster. A build that stops resumes."""
