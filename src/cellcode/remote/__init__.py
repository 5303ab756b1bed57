"""Polite HTTP for everything that is fetched: rates, retries within a budget, bounded bodies, no private addresses."""

from cellcode.remote.addresses import allow_private, check_url, redact
from cellcode.remote.client import Client, Politeness, Reply
from cellcode.remote.errors import MissingError, RemoteError

__all__ = [
    "Client",
    "MissingError",
    "Politeness",
    "RemoteError",
    "Reply",
    "allow_private",
    "check_url",
    "redact",
]
