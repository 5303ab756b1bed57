"""Polite HTTP for everything that is fetched: rates, retries within a budget, bounded bodies, no private addresses."""

from cellcode.http.addresses import allow_private, check_url, redact
from cellcode.http.client import Client, Politeness, Reply
from cellcode.http.errors import MissingError, RemoteError

__all__ = ["Client", "MissingError", "Politeness", "RemoteError", "Reply", "allow_private", "check_url", "redact"]
