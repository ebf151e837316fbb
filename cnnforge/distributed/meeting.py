"""Let the processes that train together meet before TensorFlow connects them.

TensorFlow waits for missing processes for ever, and reacts to no signal while it waits. So first
each process connects to the first one, at the address that TensorFlow uses afterwards.
"""

from __future__ import annotations

import faulthandler
import ipaddress
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

from cnnforge.distributed.tf_config import Cluster
from cnnforge.errors import WorkerError, message_of

_GREETING = "cnnforge-worker"
_GO = "go"
_PAUSE = 0.2
_ANSWER = 5.0
# Min seconds in which TensorFlow connects processes that have met.
_CONNECTING = 30.0


def meet(cluster: Cluster, seconds: float) -> float:
    """Wait until all processes have started.

    Args:
        cluster: The processes.
        seconds: Max time.

    Returns:
        The time that is left, in seconds.

    Raises:
        WorkerError: A process has not started in this time, or the address of the first process is
            in use.
    """
    end = time.monotonic() + seconds
    if cluster.rank == 0:
        _receive(cluster, end, seconds)
    else:
        _join(cluster, end, seconds)
    return end - time.monotonic()


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """End the process with one line if the block takes longer, even if no Python code can run.

    Args:
        seconds: Max time of the block; at least 30 seconds are given.
    """
    seconds = max(seconds, _CONNECTING)
    line = (
        f"error: TensorFlow could not connect the workers within {seconds:.0f} seconds: a worker "
        "has ended after its start; look at the messages of the others, and start all again"
    )
    # A timer in C writes to this program and ends the process with code 1. The program prints the
    # line in place of the traceback.
    if os.name != "posix":
        yield
        return
    script = 'if read -r _; then printf "%s\\n" "$0" >&2; cat >/dev/null; fi'
    with subprocess.Popen(
        ["sh", "-c", script, line], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as printer:
        assert printer.stdin is not None
        faulthandler.dump_traceback_later(seconds, exit=True, file=printer.stdin.fileno())
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _receive(cluster: Cluster, end: float, seconds: float) -> None:
    """Wait for all others at the address of the first process."""
    missing = set(range(1, len(cluster.addresses)))
    with ExitStack() as opened:
        listener = opened.enter_context(closing(_listener(cluster)))
        joined: list[socket.socket] = []
        while missing:
            listener.settimeout(max(0.01, min(_PAUSE, end - time.monotonic())))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                if time.monotonic() < end:
                    continue
                text = _missing(cluster, missing, seconds)
                for each in joined:
                    _send(each, text)
                raise WorkerError(text) from None
            opened.enter_context(closing(connection))
            rank = _rank_of(connection, cluster)
            if rank is not None:
                missing.discard(rank)
                joined.append(connection)
        for each in joined:
            _send(each, _GO)
        # The side that closes first may not use its port again at once. That must not be this one.
        for each in joined:
            each.settimeout(_ANSWER)
            with suppress(OSError):
                each.recv(1)


def _join(cluster: Cluster, end: float, seconds: float) -> None:
    """Connect to the first process, and wait until it says that all are there."""
    host, port = cluster.host_and_port(0)
    answer = ""
    while not answer and time.monotonic() < end:
        with suppress(OSError), socket.create_connection((host, port), _ANSWER) as connection:
            _send(connection, f"{_GREETING} {cluster.rank} {len(cluster.addresses)}")
            # The first process waits as long as this one, and then says who is missing.
            connection.settimeout(max(0.1, end + _ANSWER - time.monotonic()))
            answer = _line(connection)
            # Another program may be there, or the server of an earlier training that is ending.
            answer = answer if answer == _GO or answer.startswith("worker ") else ""
        if not answer:
            time.sleep(_PAUSE)
    if answer != _GO:
        raise WorkerError(answer or _missing(cluster, {0}, seconds))


def _listener(cluster: Cluster) -> socket.socket:
    host, port = cluster.host_and_port(0)
    try:
        address = ipaddress.ip_address(socket.getaddrinfo(host, port)[0][4][0])
        # The name of this machine may have an address that only other machines use for it, such as
        # that of a service of Kubernetes. So listen on all, unless the address is of this machine.
        there = str(address) if address.is_loopback else ""
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        return socket.create_server((there, port), family=family)
    except OSError as error:
        raise WorkerError(
            f"worker 0 cannot listen at {cluster.addresses[0]}: {message_of(error)}; give it a "
            "free port and the name of its own machine in TF_CONFIG"
        ) from error


def _rank_of(connection: socket.socket, cluster: Cluster) -> int | None:
    """Return the rank of a process that has connected; `None` if it is another program."""
    connection.settimeout(_ANSWER)
    try:
        words = _line(connection).split()
    except OSError:
        return None
    if len(words) != 3 or words[0] != _GREETING:
        return None
    rank, size = words[1:]
    known = rank.isdigit() and 0 < int(rank) < len(cluster.addresses)
    if not known or size != str(len(cluster.addresses)):
        text = (
            f"worker {rank[:9]} has a TF_CONFIG with {size[:9]} workers, and worker 0 one with "
            f"{len(cluster.addresses)}: give all the same list"
        )
        _send(connection, text)
        raise WorkerError(text)
    return int(rank)


def _missing(cluster: Cluster, ranks: set[int], seconds: float) -> str:
    names = ", ".join(f"{rank} ({cluster.addresses[rank]})" for rank in sorted(ranks))
    return (
        f"worker {names} has not started within {seconds:.0f} seconds: look at its messages, and "
        "start all workers again; --startup-timeout gives more time"
    )


def _send(connection: socket.socket, text: str) -> None:
    with suppress(OSError):
        connection.sendall(text.encode() + b"\n")


def _line(connection: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\n") and len(data) < 10_000:
        more = connection.recv(1000)
        if not more:
            break
        data += more
    return data.decode("utf-8", "replace").strip()
