"""The service: an HTTP API and a page over an open database. Knows search and what lies below it, nothing of training.

Needs the extra `serve`.
"""
