"""Requests to one address, and waiting where it is busy."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from cellcode.errors import CellcodeError, UsageError

BUSY = {"rate_limited": 429, "overloaded": 503}  # errors that pass by themselves
_LEAST_PAUSE_S = 0.5


class ServiceError(CellcodeError):
    """The service refused, or cannot be reached.

    Attributes:
        code: stable, as docs/serving.md lists them; "unreachable" where there was no answer.
        message, action: what is wrong, and what to do.
        status: of HTTP; None without an answer.
    """

    def __init__(self, code: str, message: str, action: str, status: int | None = None) -> None:
        super().__init__(f"{message}; {action}" if action else message)
        self.code, self.message, self.action, self.status = code, message, action, status


class Patience:
    """What is left of the time that may be spent waiting."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

    def wait(self, pause_s: float, error: ServiceError) -> None:
        """Wait for a busy service, or raise what it said where that would take too long."""
        pause_s = max(pause_s, _LEAST_PAUSE_S)
        if pause_s > self.left_s:
            raise error
        self.left_s -= pause_s
        time.sleep(pause_s)


class Transport:
    """Requests to one service; see `Client` for the arguments."""

    def __init__(self, url: str, key: str | None, timeout_s: float, wait_s: float) -> None:
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
            if parts.scheme not in ("http", "https") or not self._host or parts.query or parts.fragment:
                raise ValueError
        except ValueError:
            raise UsageError(f"{url!r} is no address of a service; give http://HOST:PORT or https://HOST") from None
        if key is not None and not (key and key.isascii() and key.isprintable()):
            raise UsageError("the API key must be printable ASCII; copy it from the key file as it is")
        self._url, self._timeout_s, self._wait_s = url.rstrip("/"), timeout_s, wait_s
        self._connection: type[HTTPConnection] = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Connection": "close", **({"Authorization": f"Bearer {key}"} if key else {})}

    def json(self, method: str, path: str, body: bytes = b"", kind: str | None = None) -> Any:
        """Return the JSON that a request is answered with; `kind` is the content type of the body."""
        raw = self.whole(method, path, body, kind)
        try:
            return json.loads(raw)
        except ValueError:
            raise ServiceError("unreachable", f"{self._url} did not answer in JSON", "check the address") from None

    def whole(self, method: str, path: str, body: bytes = b"", kind: str | None = None) -> bytes:
        """Return the body that a request is answered with."""
        return self._read(self._open(method, path, body, kind))

    def lines(self, path: str, count: int, body: bytes, kind: str, patience: Patience) -> Iterator[Any]:
        """Yield `count` lines of JSON as they come.

        Raises:
            ServiceError: also with status None, one of `BUSY` in place of a line: the rest is to be sent again.
        """
        with self._open("POST", path, body, kind, patience) as response:
            for _ in range(count):
                with self._reaching():
                    line = response.readline()
                if not line.endswith(b"\n"):
                    raise ServiceError("unreachable", f"{self._url} broke off in the middle of a batch", "ask again")
                value = json.loads(line)
                if "error" in value and ("file" not in value or value["error"]["code"] in BUSY):
                    raise ServiceError(**value["error"])
                yield value

    def patience(self) -> Patience:
        """Return how long a call may wait."""
        return Patience(self._wait_s)

    def _open(
        self, method: str, path: str, body: bytes = b"", kind: str | None = None, patience: Patience | None = None
    ) -> HTTPResponse:
        """Return the answer of a request that was granted; waits for a busy service."""
        patience = patience or self.patience()
        while True:
            response = self._once(method, path, body, kind)
            if response.status == 200:
                return response
            error = self._refusal(response, self._read(response))
            if response.status not in BUSY.values():
                raise error
            patience.wait(_pause_s(response), error)

    def _once(self, method: str, path: str, body: bytes, kind: str | None) -> HTTPResponse:
        connection = self._connection(self._host, self._port, timeout=self._timeout_s)
        headers = {**self._headers, **({"Content-Type": kind} if kind else {})}
        try:
            with self._reaching():
                with suppress(BrokenPipeError, ConnectionResetError):  # one that refuses a body has answered already
                    connection.request(method, self._prefix + path, body or None, headers)
                return connection.getresponse()
        except ServiceError:
            connection.close()
            raise

    def _read(self, response: HTTPResponse) -> bytes:
        with self._reaching(), response:
            return response.read()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPException) as error:
            why = (
                f"no answer in {self._timeout_s:g} s" if isinstance(error, TimeoutError) else str(error) or repr(error)
            )
            said = f"{self._url} cannot be reached ({why})"
            raise ServiceError("unreachable", said, "check that the service runs there") from None

    def _refusal(self, response: HTTPResponse, body: bytes) -> ServiceError:
        try:
            error = json.loads(body)["error"]
            return ServiceError(error["code"], error["message"], error["action"], response.status)
        except (ValueError, KeyError, TypeError):  # a proxy in front of the service, or another service
            said = f"{self._url} answered with HTTP status {response.status}"
            return ServiceError("unreachable", said, "check the address and what lies between", response.status)


def _pause_s(response: HTTPResponse) -> float:
    """Seconds that a busy service asks to wait: Retry-After as a number or a date (RFC 9110, 10.2.3)."""
    said = response.headers.get("Retry-After", "1")
    if said.isdigit():
        return float(said)
    try:
        return parsedate_to_datetime(said).timestamp() - time.time()
    except ValueError:
        return 1.0
