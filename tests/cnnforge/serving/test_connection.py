"""Slow clients, bytes that are not HTTP, and signals."""

import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Levels, app_of, exchange, picture, request, running

from cnnforge.serving.limits import Limits

# Long enough for a busy machine, short enough for a test.
QUICK = Limits(seconds=0.4)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(app_of(Levels(), limits=QUICK), QUICK) as port:
        yield port


def error_of(answer: bytes) -> str:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def rest_of(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    answer = b""
    try:
        while part := connection.recv(4096):
            answer += part
    except ConnectionError:
        pass
    return answer


def drip(port: int, start: bytes, rest: bytes = b"x" * 100) -> tuple[bytes, float]:
    """Send one byte at a time, until the server closes the connection."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(start)
        stopped = threading.Event()

        def send() -> None:
            for byte in rest:
                if stopped.wait(0.05):
                    return
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return

        sender = threading.Thread(target=send)
        sender.start()
        answer = rest_of(connection)
        stopped.set()
        sender.join()
    return answer, time.monotonic() - begin


def test_a_slow_head_ends(port: int) -> None:
    answer, seconds = drip(port, b"POST /predict HTTP/1.1\r\nHost: localhost\r\nx-long: ")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert error_of(answer) == "the request did not arrive within 0.4 s"
    assert seconds < 4
    # The same after a request that was answered.
    answer, seconds = drip(
        port, request(b"", "Connection: keep-alive", path="/health", method="GET") + b"GET /"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert seconds < 4


def test_a_slow_body_ends(port: int) -> None:
    head = request(b"", "Content-Length: 5000")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        for _ in range(4):
            connection.sendall(b"x")
            time.sleep(0.05)
        answer = rest_of(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert error_of(answer) == "the picture did not arrive within 0.4 s"


def test_a_body_after_the_answer_ends(port: int) -> None:
    start = request(b"", "Content-Length: 5000", "Content-Type: text/plain")
    answer, seconds = drip(port, start)
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert seconds < 4


def test_a_client_that_takes_no_answer_is_left(port: int) -> None:
    asked = request(b"", "Connection: keep-alive", path="/", method="GET") * 2000
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(ConnectionError):  # noqa: PT012
            while True:
                connection.sendall(asked)
    assert exchange(port, request(picture())).startswith(b"HTTP/1.1 200 ")


def test_a_body_without_length_is_limited() -> None:
    limits = Limits(bytes=5000, seconds=2)
    with running(app_of(Levels(), limits=limits), limits) as port:
        chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
        head = request(b"", "Transfer-Encoding: chunked", "Content-Length:")
        head = head.replace(b"Content-Length:\r\n", b"")
        answer = exchange(port, head + chunk * 7)
        assert answer.startswith(b"HTTP/1.1 413 ")
        answer = exchange(port, request(b"", "Content-Length: 5001"))
        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        request(picture(), "Connection: keep-alive") + b"\x00\x01 garbage\r\n\r\n",
        request(picture(), "Transfer-Encoding: gzip"),
        b"A" * 200_000,
        request(b"", path="/", method="GET").replace(
            b"\r\n\r\n", b"\r\nUpgrade: websocket\r\n\r\n"
        ),
    ],
)
def test_what_is_not_http_is_answered_without_a_traceback(
    port: int, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        exchange(port, content)
        assert exchange(port, request(picture())).startswith(b"HTTP/1.1 200 ")
    assert not [each for each in caplog.records if each.exc_info]


def test_what_is_not_http_after_an_answer(port: int, caplog: pytest.LogCaptureFixture) -> None:
    head = request(b"", "Transfer-Encoding: chunked", "Content-Type: text/plain")
    head = head.replace(b"Content-Length: 0\r\n", b"").replace(b"Connection: close\r\n", b"")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(12) == b"HTTP/1.1 415"
        connection.sendall(b"this is not a chunk\r\n")
        rest_of(connection)
    assert not [each for each in caplog.records if each.exc_info]


_PROGRAM = """
import socket, sys
sys.path.insert(0, sys.argv[1])
from served import Levels, app_of
from cnnforge.serving.connection import Server, run
from cnnforge.serving.limits import Limits
listener = socket.create_server(("127.0.0.1", 0))
model = Levels()
app = app_of(model)
model.gate.clear()
assert not {"keras", "tensorflow", "matplotlib"} & set(sys.modules)
print(listener.getsockname()[1], flush=True)
sys.exit(run(Server(app, Limits()), listener) or 0)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_within_two_seconds(number: signal.Signals) -> None:
    support = str(Path(__file__).parents[2] / "support")
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, support],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    connections = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(4)]
    # One waits for its prediction, one sends its picture, one its head, one is idle.
    whole = request(picture())
    for connection, content in zip(connections, (whole, whole[:-9], whole[:30], b""), strict=True):
        connection.sendall(content)
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    # Most of it is the time in which requests may be finished.
    assert time.monotonic() - begin < 2
    assert process.returncode == number
    assert errors == ""
    for connection in connections[:2]:
        answer = rest_of(connection)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert error_of(answer) == "the server was stopped"
    for connection in connections:
        connection.close()
