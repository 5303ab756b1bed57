"""Which addresses may be requested, and how an address is shown.

A template or a list of photos may come from anyone. If it could name an address inside the user's network, whoever wrote
it could make this machine contact a router, a database or a cloud's metadata service. So only public addresses are
requested, unless the user allows others.
"""

import ipaddress
import os
import socket
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from cellcode.http.errors import RemoteError

ALLOW_VARIABLE = "CELLCODE_ALLOW_PRIVATE"  # in the environment, so that processes started from this one have it too
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SECRET = ("token", "key", "secret", "signature", "password", "credential", "sig", "auth")


def allow_private(allowed: bool = True) -> None:
    """Let this process and those it starts contact private addresses, as `--allow-private` does."""
    if allowed:
        os.environ[ALLOW_VARIABLE] = "1"
    else:
        os.environ.pop(ALLOW_VARIABLE, None)


def private_is_allowed() -> bool:
    """Return True if the environment allows private addresses."""
    return os.environ.get(ALLOW_VARIABLE, "") not in ("", "0")


def check_url(url: str, allow_private: bool | None = None) -> None:
    """Refuse an address that must not be requested; for those that other libraries open.

    RemoteError: it is not http or https, has no host, an unknown host, or a private address that is not allowed (None: the
    environment decides, `--allow-private`).
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RemoteError(f"{redact(url)} is not an http or https address", "bad address", lasting=True)
    if private_is_allowed() if allow_private is None else allow_private:
        return
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):  # the latter of a name that is no name
        raise RemoteError(f"unknown host {parts.hostname}; check the address", "unreachable") from None
    for address in sorted(found):
        refuse_private(address, parts.hostname)


def refuse_private(address: str, host: str) -> None:
    """Raise unless an IP address, which belongs to `host`, is public."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address):
        behind = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF) if number in _NAT64 else None
        number = behind or number.ipv4_mapped or number.sixtofour or number
    if not number.is_global or number.is_multicast:
        sentence = f"{host} is a private address ({number}); if it is meant, allow it with --allow-private"
        raise RemoteError(sentence, "private address", lasting=True)


def redact(url: str) -> str:
    """Return the address with the values of its secrets replaced, for messages and logs."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "an address that cannot be read"
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    shown = [(name, "***" if any(word in name.lower() for word in _SECRET) else value) for name, value in pairs]
    query = parts.query if shown == pairs else urlencode(shown, safe="*,:/{}")
    return urlunsplit(parts._replace(netloc=host, query=query))
