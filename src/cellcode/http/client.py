"""A client that keeps to a rate, retries temporary errors, and never returns half an answer."""

import json
import random
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, NewConnectionError, TimeoutError

import cellcode
from cellcode.http.addresses import check_url, private_is_allowed, redact
from cellcode.http.connections import ANY, PUBLIC
from cellcode.http.errors import MissingError, RemoteError

MIB = 2**20
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_HOPS = 5
_CHUNK = 64 * 1024
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0")  # the last: HEIF, AVIF
# Ends, in monotonic time, of the waits beyond the patience of a request that a host has required since its last answer. After
# six of them it is not asked before: for all clients, so that the next step of the recipe does not ask it either. One photo
# that is refused accounts for up to five: its sizes, and each of its renditions.
_REFUSALS = 6
_refusing: dict[str, list[float]] = {}
Expected = Literal["image", "json", "any"]
Follow = Literal["same host", "anywhere"]


@dataclass(frozen=True)
class Politeness:
    """How many requests a host gets, and how long to wait for an answer.

    Attributes:
        requests_per_s, connections: to one host.
        tries: of one request, at most.
        timeout_s: to connect, and between two parts of an answer.
        patience_s: for one request with all its tries and waits.
        first_wait_s: before the second try where the server names no time; each further wait is twice as long.
        max_body_bytes: of one answer.
        budget_bytes: of all answers together; None: no limit.
    """

    requests_per_s: float = 10.0
    connections: int = 4
    tries: int = 5
    timeout_s: float = 30.0
    patience_s: float = 120.0
    first_wait_s: float = 0.5
    max_body_bytes: int = 64 * MIB
    budget_bytes: int | None = None


@dataclass(frozen=True)
class Reply:
    """An answer that came whole.

    Attributes:
        url: that answered, after redirects.
        status: 200, 206 where a range was requested, or 304 where a condition was sent and nothing has changed.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def not_modified(self) -> bool:
        """True if what the caller has is still current."""
        return self.status == 304


class Client:
    """Sends requests; can be used by several threads.

    Args:
        headers: sent with every request, but not to another host that a redirect leads to.
        allow_private: addresses that are not public are allowed; None: the environment decides (`--allow-private`).
    """

    def __init__(
        self,
        politeness: Politeness | None = None,
        headers: Mapping[str, str] | None = None,
        allow_private: bool | None = None,
    ) -> None:
        self.politeness = politeness or Politeness()
        self.fetched_bytes = 0
        self._headers = {"User-Agent": f"cellcode/{cellcode.__version__}", **(headers or {})}
        self._private = private_is_allowed() if allow_private is None else allow_private
        self._pace, self._lock = _Pace(self.politeness.requests_per_s), threading.Lock()
        self._pool = urllib3.PoolManager(
            maxsize=self.politeness.connections, block=True, retries=False, timeout=self.politeness.timeout_s
        )
        self._pool.pool_classes_by_scheme = ANY if self._private else PUBLIC

    def check(self, url: str) -> None:
        """Refuse an address that this client does not allow; see `check_url`."""
        check_url(url, self._private)

    def get(
        self,
        url: str,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        expect: Expected = "any",
        follow: Follow = "same host",
        verify: Callable[[bytes], object] | None = None,
    ) -> Reply:
        """Request an address until a whole answer of the expected kind has come.

        Retried: 408, 429 and 5xx (after the time the server names, if it does), a refused or broken connection, silence,
        a body cut short, another kind of answer than expected.

        Args:
            params: appended to the query.
            expect: an answer that is not an image, or not JSON, is a temporary error (such as an error page with status 200).
            follow: redirects to the same host only, or to any public one.
            verify: raises ValueError where a body is damaged, which is a temporary error.

        Raises:
            MissingError: 204, 404 or 410.
            RemoteError: no usable answer within the tries and the patience, or a permanent error.
        """
        if params:
            url += ("&" if "?" in url else "?") + urlencode(params, doseq=True)
        deadline = time.monotonic() + self.politeness.patience_s
        for attempt in range(1, self.politeness.tries + 1):
            try:
                reply = self._follow(url, {**self._headers, **(headers or {})}, follow, deadline)
                return _checked(reply, expect, verify)
            except _Temporary as error:
                wait_s = error.wait_s
                if wait_s is None:  # spread, so that threads that failed together do not come back together
                    wait_s = self.politeness.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                if attempt == self.politeness.tries or time.monotonic() + wait_s > deadline:
                    tried = f"tried {attempt} times" if attempt > 1 else "tried once"
                    later = f"; the server requires a wait of {wait_s:.0f} s" if error.wait_s else ""
                    sentence = f"{redact(url)}: {error.sentence} ({tried}{later})"
                    if error.wait_s and time.monotonic() + error.wait_s > deadline:
                        _refusing.setdefault(urlsplit(url).netloc, []).append(time.monotonic() + error.wait_s)
                    raise RemoteError(sentence, error.reason, error.status) from None
                if error.status in (429, 503):
                    self._pace.hold(urlsplit(url).netloc, wait_s)
                time.sleep(wait_s)
        raise AssertionError("unreachable")

    def json(self, url: str, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """Request JSON and return its value; see `get`."""
        return json.loads(self.get(url, params, headers, expect="json").body)

    def _follow(self, url: str, headers: Mapping[str, str], follow: Follow, deadline: float) -> Reply:
        host = urlsplit(url).hostname
        for _ in range(_MAX_HOPS):
            reply = self._once(url, headers, deadline)
            if reply.status not in _REDIRECTS:
                return reply
            try:
                target = urljoin(url, reply.headers.get("Location", ""))
                urlsplit(target)
            except ValueError:
                raise _Temporary("redirected to no address", "redirect to another host", reply.status) from None
            elsewhere = urlsplit(target).hostname != host
            if elsewhere and follow == "same host":
                sentence = f"redirected to another host, {urlsplit(target).hostname}"
                raise _Temporary(sentence, "redirect to another host", reply.status)
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                raise _Temporary("redirected away from https", "redirect to another host", reply.status)
            if elsewhere:  # they may hold a secret that is for the first host only
                headers = {name: value for name, value in headers.items() if name == "User-Agent"}
            url = target
        raise _Temporary(f"more than {_MAX_HOPS} redirects", "redirect loop", reply.status)

    def _once(self, url: str, headers: Mapping[str, str], deadline: float) -> Reply:
        self.check(url)
        budget = self.politeness.budget_bytes
        if budget is not None and self.fetched_bytes >= budget:
            raise RemoteError(
                f"{redact(url)} is not fetched: the budget of {budget / MIB:.0f} MB is spent", "byte budget spent"
            )
        host = urlsplit(url).netloc
        waits = _refusing.get(host, [])
        if len(waits) >= _REFUSALS and (left_s := max(waits) - time.monotonic()) > 0:
            sentence = f"{redact(url)} is not requested: the server requires a wait of {left_s:.0f} s"
            raise RemoteError(sentence, "too many requests", 429)
        self._pace.wait(host)
        try:
            answer: Any = self._pool.request(
                "GET", url, headers=headers, redirect=False, preload_content=False, decode_content=False
            )
            try:
                body = self._body(url, answer, deadline)
            except BaseException:
                answer.close()  # the connection is in the middle of a body: it cannot be used again
                raise
            answer.release_conn()
        except NewConnectionError:  # a kind of TimeoutError in urllib3, though a refused connection takes no time
            raise _Temporary("no connection can be made", "unreachable") from None
        except TimeoutError:
            raise _Temporary(f"no answer within {self.politeness.timeout_s:g} s", "timeout") from None
        except urllib3.exceptions.ProtocolError as error:
            cut = "incompleteread" in repr(error).lower() or "invalidchunk" in repr(error).lower()
            said = ("the answer was cut short", "cut body") if cut else ("the connection broke", "unreachable")
            raise _Temporary(*said) from None
        except urllib3.exceptions.SSLError:
            raise _Temporary("its certificate cannot be verified", "bad certificate") from None
        except HTTPError as error:
            raise _Temporary(f"cannot be reached ({type(error).__name__})", "unreachable") from None
        reply = Reply(url, answer.status, answer.headers, body)
        if reply.status not in (429, 503):
            _refusing.pop(host, None)
        _raise_for_status(reply)
        return reply

    def _body(self, url: str, answer: Any, deadline: float) -> bytes:
        limit, parts, size = self.politeness.max_body_bytes, [], 0
        while part := answer.read1(_CHUNK):  # what has come, so that a dripping answer is noticed
            parts.append(part)
            size += len(part)
            with self._lock:
                self.fetched_bytes += len(part)
            if size > limit:
                raise self._too_large(url, answer.status)
            if time.monotonic() > deadline:
                raise _Temporary("the answer came too slowly", "timeout", answer.status)
        body = b"".join(parts)
        if answer.headers.get("Content-Encoding", "").lower() not in ("gzip", "x-gzip", "deflate") or not body:
            return body
        unpacker = zlib.decompressobj(wbits=47)  # here, because urllib3 unpacks without a limit
        try:
            body = unpacker.decompress(body, limit)
        except zlib.error as error:
            raise _Temporary(f"the answer is damaged ({error})", "damaged", answer.status) from None
        if unpacker.unconsumed_tail:
            raise self._too_large(url, answer.status)
        if not unpacker.eof:
            raise _Temporary("the answer was cut short", "cut body", answer.status)
        return body

    def _too_large(self, url: str, status: int) -> RemoteError:
        sentence = f"{redact(url)}: the answer is over {self.politeness.max_body_bytes / MIB:.0f} MB"
        return RemoteError(sentence, "too large", status, lasting=True)


class _Pace:
    """Spaces requests to each host evenly; threads wait for their turn."""

    def __init__(self, requests_per_s: float) -> None:
        self._gap_s, self._lock = 1 / requests_per_s, threading.Lock()
        self._next: defaultdict[str, float] = defaultdict(float)  # monotonic time of the next free turn

    def wait(self, host: str) -> None:
        with self._lock:
            turn = max(self._next[host], time.monotonic())
            self._next[host] = turn + self._gap_s
        time.sleep(max(0.0, turn - time.monotonic()))

    def hold(self, host: str, seconds: float) -> None:
        """Send nothing to `host` for a while: it has refused further requests, which holds for every thread."""
        with self._lock:
            self._next[host] = max(self._next[host], time.monotonic() + seconds)


class _Temporary(Exception):
    """An error that may be gone at the next try."""

    def __init__(self, sentence: str, reason: str, status: int | None = None, wait_s: float | None = None) -> None:
        super().__init__(sentence)
        self.sentence, self.reason, self.status, self.wait_s = sentence, reason, status, wait_s


def _raise_for_status(reply: Reply) -> None:
    status, shown = reply.status, redact(reply.url)
    if status in (200, 206, 304, *_REDIRECTS):
        return
    if status == 429:
        raise _Temporary("too many requests (429)", "too many requests", status, _retry_after_s(reply))
    if status == 408 or status >= 500:
        raise _Temporary(f"the server failed ({status})", "server error", status, _retry_after_s(reply))
    if status in (204, 404, 410):
        raise MissingError(f"{shown}: not there ({status})", status)
    if status in (401, 403):
        sentence, reason = f"{shown}: access refused ({status}); check the key or token", "refused"
    else:
        sentence, reason = f"{shown}: the request was refused as malformed ({status})", "bad request"
    raise RemoteError(sentence, reason, status, lasting=True)


def _retry_after_s(reply: Reply) -> float | None:
    text = reply.headers.get("Retry-After")
    try:
        return urllib3.Retry().parse_retry_after(text) if text else None
    except (InvalidHeader, ValueError, OverflowError):
        return None


def _checked(reply: Reply, expect: Expected, verify: Callable[[bytes], object] | None) -> Reply:
    if reply.not_modified:
        return reply
    if expect == "image" and not reply.body.startswith(_IMAGES):
        if not reply.body:
            raise _Temporary("an empty answer", "empty answer", reply.status)
        kind = reply.headers.get("Content-Type", "something unnamed").partition(";")[0]
        raise _Temporary(f"not an image but {kind}", "not an image", reply.status)
    if expect == "json":
        try:
            json.loads(reply.body)
        except ValueError:
            raise _Temporary("the answer is not JSON", "not JSON", reply.status) from None
    if verify is not None:
        try:
            verify(reply.body)
        except ValueError as error:
            raise _Temporary(f"the answer is damaged ({error})", "damaged", reply.status) from None
    return reply
