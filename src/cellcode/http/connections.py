"""Connections that a server cannot keep busy for ever, and that lead to public addresses only."""

import socket
import threading
from contextlib import suppress
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from cellcode.http.addresses import refuse_private


class _Bounded:
    """Of a connection: headers, of which a server may send one byte after the other for ever, end within twice the timeout."""

    sock: Any
    timeout: float

    def getresponse(self) -> Any:
        connected, is_late = self.sock, threading.Event()

        def cut() -> None:
            is_late.set()
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(2 * self.timeout, cut)
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()  # type: ignore[misc]
        finally:
            timer.cancel()
        if is_late.is_set():  # what came of the headers would be taken for all of them
            raise TimeoutError
        return response


class _Public(_Bounded):
    """Of a connection: checks whom it is connected to, since a name may lead elsewhere than when it was checked."""

    host: str

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        refuse_private(self.sock.getpeername()[0], self.host)


def _pools(kind: type) -> dict[str, type]:
    """Pools of connections of a kind, by scheme."""
    plain, secure = type("HTTP", (kind, HTTPConnection), {}), type("HTTPS", (kind, HTTPSConnection), {})
    return {
        "http": type("HTTPPool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("HTTPSPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


ANY, PUBLIC = _pools(_Bounded), _pools(_Public)
