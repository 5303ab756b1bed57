"""Connections of clients that are slow, silent, too many or speak no HTTP: closed in time, with a documented error.

uvicorn has a limit of time for the pause between two requests only: neither for headers nor for answers that are not read.
"""

import asyncio
import sys
from heapq import nsmallest
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cellcode.serving import guard
from cellcode.serving.problems import Problem
from cellcode.serving.settings import Settings


class Connection(H11Protocol):
    """One connection; `of` makes the class that knows the limits."""

    settings: Settings
    _request_due: asyncio.TimerHandle | None = None
    _reading_due: asyncio.TimerHandle | None = None
    _heard = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request; where there are too many connections, close those that have kept silent longest."""
        super().connection_made(transport)
        self._heard = self.loop.time()
        self._watch()
        if len(self.connections) > self.settings.connections:
            others = (each for each in self.connections if isinstance(each, Connection) and each is not self)
            silent = [each for each in others if each.waits_for_client()] or [self]
            # Several at once: under a flood of connections, looking for one each time would take all of the time.
            for each in nsmallest(1 + self.settings.connections // 50, silent, key=lambda each: each._heard):
                each.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        for timer in (self._request_due, self._reading_due):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        self._heard = self.loop.time()
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of one that was answered before its end."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Give the client time to read."""
        super().pause_writing()
        self._reading_due = self.loop.call_later(self.settings.idle_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the clock: it has read."""
        super().resume_writing()
        if self._reading_due is not None:
            self._reading_due.cancel()

    def waits_for_client(self) -> bool:
        """Return True if nothing is at work here that the client has not to send or to read something for."""
        cycle = self.cycle
        return (
            cycle is None or cycle.response_complete or (cycle.more_body and not cycle.body) or self.flow.write_paused
        )

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, with the status that the parser proposes."""
        status = getattr(sys.exc_info()[1], "error_status_hint", 400)
        if status == 431 and b"\n" not in self.conn.trailing_data[0]:
            self._refuse(Problem("address_too_long", "the address of the request is too long"))
        elif status == 431:
            self._refuse(Problem("headers_too_large", "the headers of the request are too large"))
        else:
            self._refuse(Problem("bad_request", "the request is not valid HTTP/1.1"))

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            if self._request_due is not None:
                self._request_due.cancel()
                self._request_due = None
        elif self._request_due is None:
            self._request_due = self.loop.call_later(self.settings.idle_seconds, self._give_up)

    def _give_up(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            seconds = self.settings.idle_seconds
            self._refuse(Problem("too_slow", f"the headers of the request were not there after {seconds:g} s"))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # within a body: its reader sees the end
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = problem.response()
            headers = [*answer.raw_headers, *guard.headers(self.settings.basemap), (b"connection", b"close")]
            head = h11.Response(
                status_code=answer.status_code, headers=headers, reason=HTTPStatus(answer.status_code).phrase.encode()
            )
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def of(settings: Settings) -> type[Connection]:
    """Return the protocol of a service's connections."""
    return type("Connection", (Connection,), {"settings": settings})
