"""A server on loopback that misbehaves as its path says."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


class Faulty:
    """The server and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.times: list[float] = []
        self.busiest = self._busy = 0
        self._lock = threading.Lock()
        faulty = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with faulty._lock:
                    faulty.asked.append((self.path, dict(self.headers)))
                    faulty.times.append(time.monotonic())
                    count = sum(path == self.path for path, _ in faulty.asked)
                    faulty._busy += 1
                    faulty.busiest = max(faulty.busiest, faulty._busy)
                try:
                    getattr(self, urlsplit(self.path).path.strip("/").replace("-", "_").split("/")[0])(count)
                finally:
                    with faulty._lock:
                        faulty._busy -= 1

            def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
                self.send_response(status)
                headers = {"Content_Type": "image/png", "Content_Length": str(len(body)), **headers}
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def image(self, count: int) -> None:
                self.answer(PNG)

            def slow(self, count: int) -> None:
                time.sleep(0.05)
                self.answer(PNG)

            def json(self, count: int) -> None:
                self.answer(b'{"a": [1]}', Content_Type="application/json")

            def conditional(self, count: int) -> None:
                known = self.headers.get("If-None-Match") == '"1"'
                self.answer(b"" if known else PNG, 304 if known else 200, ETag='"1"')

            def busy_twice(self, count: int) -> None:
                self.answer(PNG, 200) if count > 2 else self.answer(b"", 429)

            def busy_until(self, count: int) -> None:
                self.answer(PNG, 200) if count > 1 else self.answer(b"", 429, Retry_After="1")

            def busy_long(self, count: int) -> None:
                self.answer(b"", 429, Retry_After="3600")

            def broken(self, count: int) -> None:
                self.answer(b"oops", 500)

            def html(self, count: int) -> None:
                self.answer(b"<html>sorry</html>", Content_Type="text/html; charset=utf-8")

            def cut(self, count: int) -> None:
                self.answer(PNG, Content_Length="1000", Connection="close")
                self.close_connection = True

            def hang(self, count: int) -> None:
                time.sleep(1.0)
                self.close_connection = True

            def drip(self, count: int) -> None:
                self.answer(PNG, Content_Length="10000")
                for _ in range(40):
                    time.sleep(0.05)
                    self.wfile.write(b"x")
                self.close_connection = True

            def endless_headers(self, count: int) -> None:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
                with suppress(OSError):
                    for _ in range(100):
                        time.sleep(0.02)
                        self.wfile.write(b"x")
                self.close_connection = True

            def continued(self, count: int) -> None:
                with suppress(OSError):
                    for _ in range(100):
                        time.sleep(0.02)
                        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.close_connection = True

            def packed(self, count: int) -> None:
                self.answer(gzip.compress(PNG), Content_Encoding="gzip")

            def bomb(self, count: int) -> None:
                self.answer(gzip.compress(bytes(2_000_000)), Content_Encoding="gzip")

            def half(self, count: int) -> None:
                self.answer(gzip.compress(PNG)[:-9], Content_Encoding="gzip")

            def nowhere(self, count: int) -> None:
                self.answer(b"", 302, Location="http://[x")

            def busy_for_ever(self, count: int) -> None:
                self.answer(b"", 429, Retry_After="9" * 5000)

            def missing(self, count: int) -> None:
                self.answer(b"", 404)

            def gone(self, count: int) -> None:
                self.answer(b"", 410)

            def refused(self, count: int) -> None:
                self.answer(b"", 403)

            def odd(self, count: int) -> None:
                self.answer(b"", 400)

            def moved(self, count: int) -> None:
                self.answer(b"", 302, Location="/image")

            def elsewhere(self, count: int) -> None:
                self.answer(b"", 302, Location=f"http://127.0.0.2:{self.server.server_address[1]}/image")

            def loop(self, count: int) -> None:
                self.answer(b"", 302, Location="/loop")

            def large(self, count: int) -> None:
                self.answer(PNG + bytes(2_000_000))

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Faulty]:
    faulty = Faulty()
    yield faulty
    faulty.server.shutdown()
    faulty.server.server_close()
