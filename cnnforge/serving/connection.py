"""Run a server until a signal stops it, and limit the time of slow clients."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import h11
import uvicorn
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

from cnnforge.serving.limits import Limits

# Seconds after a signal in which requests may be finished.
_GRACE = 0.5
# Max seconds between two requests of a connection.
_IDLE = 5
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_LOG = "uvicorn"


class Server(uvicorn.Server):
    """A server of HTTP that `run` runs.

    Args:
        app: ASGI application.
        limits: The limits of the server.
    """

    def __init__(self, app: Any, limits: Limits) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(_Connection, limits=limits),  # pyright: ignore[reportArgumentType]
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(min(_IDLE, limits.seconds)),
                timeout_graceful_shutdown=_GRACE,  # pyright: ignore[reportArgumentType]
                limit_concurrency=limits.connections,
            )
        )
        self.signal: int | None = None
        """Number of the signal that stopped the server; `None` if none did."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop after a signal. The caller gets its number instead of the signal again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._stop) for each in _SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal, self.should_exit = number, True


def run(server: Server, listener: socket.socket) -> int | None:
    """Run a server until it is stopped.

    Args:
        server: The server.
        listener: A socket that is bound to the address of the server.

    Returns:
        Number of the signal that stopped it; `None` if `should_exit` did.
    """
    log = logging.getLogger(_LOG)
    # What clients do wrong is answered, and not logged.
    log.addHandler(logging.NullHandler())
    log.propagate = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        server.run(sockets=[listener])
    return server.signal


class _Connection(H11Protocol):
    """A connection that is closed if a client sends a request, or takes its answer, too slowly."""

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = limits.seconds
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._reading = self.loop.call_later(self._seconds, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading = _cancelled(self._reading)
        self._writing = _cancelled(self._writing)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self._reading is None and (before is None or before.response_complete):
            self._reading = self.loop.call_later(self._seconds, self._too_slow)
        try:
            super().data_received(data)
        except Exception:
            # The client has sent what is not HTTP, after a part that is.
            self.transport.abort()
        if self.cycle is not before:
            # The application limits the time of the rest of the request.
            self._reading = _cancelled(self._reading)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self._seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing = _cancelled(self._writing)

    def _too_slow(self) -> None:
        self._reading = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE:
            error = f"the request did not arrive within {self._seconds:g} s"
            body = json.dumps({"error": error}).encode()
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
