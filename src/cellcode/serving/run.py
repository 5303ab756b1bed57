"""The server process: addresses, signals, and its end."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import uvicorn

from cellcode.errors import CellcodeError, InputError
from cellcode.serving import app, keys
from cellcode.serving.service import Service
from cellcode.serving.settings import Settings
from cellcode.serving.state import State

GRACE_SECONDS = 30
logger = logging.getLogger(__name__)


def serve(
    cells: Path,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    aerial: str | None = None,
    key_file: Path | None = None,
    **locator: Any,
) -> None:
    """Serve a database until the process receives SIGINT or SIGTERM; requests at work are answered first.

    SIGHUP opens the folder again, and the imagery; if they answer, new requests use them, else the old ones stay.

    Args:
        cells: folder of the database, or of its shards.
        host, port: address, which is logged; 0: any free port.
        aerial: imagery for crops and the map.
        key_file: API keys, one per line.
        locator: options of `Locator.open`: engine, cluster, machine.

    Raises:
        InputError: the database, the imagery or the keys cannot be used, or the address is taken.
    """
    # Each call of the encoder has its share of the cores: two calls side by side lose less to waiting for one another, and
    # to the threads that decode, than the threads of one call do.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // settings.encoder_calls))
    accepted = keys.read(key_file) if key_file is not None else frozenset()
    state = State(settings, accepted)

    def make() -> Service:
        return Service(cells, settings, aerial, **locator)

    state.put(make())  # before the address is bound: a database that cannot be opened is a plain error
    listening = _bind(host, port)
    if not is_loopback(host) and not accepted:
        logger.warning(
            "%s can be reached by other machines and no keys are required; give --keys FILE, or "
            "put a proxy with a login in front",
            host,
        )
    config = uvicorn.Config(
        app.create(state),
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    _Server(config, state, make).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Logs where it listens, and opens the database again on SIGHUP."""

    def __init__(self, config: uvicorn.Config, state: State, make: Callable[[], Service]) -> None:
        super().__init__(config)
        self.state, self.make, self._swap = state, make, asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP"):  # not on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._again)
        for each in sockets or []:
            host, port = each.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logger.info("serving on http://%s:%d", shown, port)

    def _again(self) -> None:
        task = asyncio.get_running_loop().create_task(self._replace())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self) -> None:
        async with self._swap:  # one after the other
            swaps = self.state.metrics.swaps
            try:
                made = await asyncio.get_running_loop().run_in_executor(None, self.make)
            except Exception as error:
                swaps.labels("failed").inc()
                reason = error if isinstance(error, CellcodeError) else f"unexpected {type(error).__name__}"
                logger.error("the database was not replaced, the old one stays: %s", reason)
                return
            self.state.put(made)
            swaps.labels("done").inc()
            logger.info("the database was replaced; identity %s", made.database.identity)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise InputError(f"{host}:{port} cannot be listened on ({error}); choose another --host or --port") from None
    # Connections inherit it. Without it the second part of an answer waits 40 ms until the first is acknowledged: asyncio
    # switches it on only for sockets that were made with the protocol's number, which `create_server` does not give.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def is_loopback(host: str) -> bool:
    """Return True if an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
