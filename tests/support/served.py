"""Servers of small models for the tests of `cnnforge serve`."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
from PIL import Image

from cnnforge.prediction import Predictor
from cnnforge.serving.app import Facts, make_app
from cnnforge.serving.connection import Server, run
from cnnforge.serving.guard import Access
from cnnforge.serving.limits import Limits
from cnnforge.tasks.classification import Classification

CLASSES = ("dark", "bright", "other")
FACTS = Facts(run="toy-001", model="toy", task="classification", version="1.0")
PNG = {"content-type": "image/png"}


class Levels:
    """A model that calls images bright whose mean is above 127.

    Attributes:
        image_shape: (H, W, C) of its images.
        batches: Number of images of each prediction.
        gate: Predictions wait until it is set.
        error: Error that a prediction raises; `None` for none.
    """

    image_shape = (6, 5, 1)

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def predict(self, images: np.ndarray) -> np.ndarray:
        self.gate.wait(10)
        self.batches.append(len(images))
        if self.error is not None:
            raise self.error
        bright = images.reshape(len(images), -1).mean(1) / 255
        return np.stack([0.9 - 0.9 * bright, 0.9 * bright, 0 * bright + 0.1], 1).astype(np.float32)


def predictor(model: Any) -> Predictor:
    return Predictor(model, Classification(CLASSES))


def picture(level: int = 200, size: tuple[int, int] = (5, 6), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("L", size, level).save(file, kind)
    return file.getvalue()


def app_of(model: Any, **options: Any) -> Any:
    given = {"access": Access(), **options}
    return make_app(predictor(model), FACTS, **given)


HOST = "http://127.0.0.1:8000"


class Client:
    """Sends requests to an application, each in an event loop of its own."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        if isinstance(parts := options.get("content"), Iterator):
            options["content"] = _chunks(parts)
        return asyncio.run(self._send(method, path, options))

    async def _send(self, method: str, path: str, options: Any) -> httpx.Response:
        async with client_of(self._app) as client:
            return await client.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=HOST)


async def _chunks(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@contextmanager
def running(app: Any, limits: Limits | None = None) -> Iterator[int]:
    """Run a server in a thread, and yield its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(app, limits or Limits())
    thread = threading.Thread(target=run, args=(server, listener))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def request(body: bytes, *lines: str, path: str = "/predict", method: str = "POST") -> bytes:
    """Return the bytes of a request; `lines` replace the default headers of the same names."""
    headers = {
        "host": "Host: localhost",
        "content-type": "Content-Type: image/png",
        "content-length": f"Content-Length: {len(body)}",
        "connection": "Connection: close",
    }
    headers |= {line.partition(":")[0].lower(): line for line in lines}
    text = "\r\n".join([f"{method} {path} HTTP/1.1", *filter(None, headers.values())])
    return text.encode("latin-1") + b"\r\n\r\n" + body


def exchange(port: int, content: bytes, seconds: float = 10) -> bytes:
    """Send bytes, and return all that the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        parts = []
        try:
            connection.sendall(content)
            while part := connection.recv(65536):
                parts.append(part)
        except (ConnectionError, TimeoutError):
            pass
        return b"".join(parts)
