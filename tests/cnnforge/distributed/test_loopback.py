"""T29: servers of workers that other machines cannot reach."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import numba
import pytest
from strangers import answers, outer_address

from cnnforge.distributed.loopback import closed_unless_needed, is_on_loopback
from cnnforge.distributed.tf_config import Cluster

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux has filters for sockets"
)


# Of `asm-generic/socket.h`: the filter of a socket cannot be changed any more.
SO_LOCK_FILTER = 44


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A socket that is bound to all addresses, as that of TensorFlow, and does not listen yet."""
    with socket.socket(socket.AF_INET6) as made:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::", 0))
        yield made


def cluster_of(server: socket.socket) -> Cluster:
    return Cluster((f"127.0.0.1:{server.getsockname()[1]}", "127.0.0.1:1"), 0)


def unexpected(line: str) -> None:
    raise AssertionError(line)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_t29_only_this_machine_connects(
    server: socket.socket, family: socket.AddressFamily
) -> None:
    outer, port = outer_address(family), server.getsockname()[1]
    with closed_unless_needed(cluster_of(server), unexpected):
        time.sleep(0.1)
        server.listen()
        time.sleep(0.1)
        inside = [answers(each, port) for each in ("127.0.0.1", "127.0.0.2", "::1", outer)]
    after = [answers(each, port) for each in ("127.0.0.1", "127.0.0.2", "::1", outer)]
    assert inside == after == [True, True, True, False]
    # Another server of this process is as before.
    with closing(socket.create_server(("", 0), family=family)) as other:
        assert answers(outer, other.getsockname()[1])


@numba.njit
def hold_the_lock(rounds: int) -> float:
    """Compute, and let no other Python code of this process run."""
    total = 0.0
    for _ in range(rounds):
        total += 1.0 / (total + 1.0)
    return total


STRANGER = """
import socket, sys, time
time.sleep(0.2)
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5)
    print("connected")
except OSError:
    print("refused")
"""


def test_t29_the_server_is_closed_while_no_python_code_can_run(server: socket.socket) -> None:
    # TensorFlow holds the lock of Python while it waits for the other workers.
    hold_the_lock(1)
    command = [sys.executable, "-c", STRANGER, outer_address(), str(server.getsockname()[1])]
    with closed_unless_needed(cluster_of(server), unexpected):
        server.listen()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stranger:
            while stranger.poll() is None:
                hold_the_lock(10_000_000)
            assert stranger.communicate()[0] == "refused\n"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_t29_a_connection_from_before_is_cut(
    server: socket.socket, family: socket.AddressFamily
) -> None:
    outer, port = outer_address(family), server.getsockname()[1]
    server.listen()
    with ExitStack() as opened:
        clients, connections = {}, {}
        for address in (outer, "127.0.0.1", "::1"):
            client = opened.enter_context(socket.create_connection((address, port), 5))
            clients[address] = client
            connections[address] = opened.enter_context(server.accept()[0])
        with closed_unless_needed(cluster_of(server), unexpected):
            pass
        for address, connection in connections.items():
            with suppress(OSError):
                connection.sendall(b"x")
            assert clients[address].recv(1) == (b"" if address == outer else b"x"), address


def test_if_it_cannot_be_closed_the_user_is_told(server: socket.socket) -> None:
    lines: list[str] = []
    with closed_unless_needed(cluster_of(server), lines.append):
        pass
    port = server.getsockname()[1]
    assert len(lines) == 1
    assert lines[0].startswith(
        f"warning: while training runs, other machines can connect to port {port} of this one"
    )


def test_one_of_two_servers_cannot_be_closed() -> None:
    lines: list[str] = []
    with ExitStack() as opened:
        servers = [opened.enter_context(socket.socket()) for _ in range(2)]
        for each in servers:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        servers[0].bind(("", 0))
        servers[1].bind(servers[0].getsockname())
        for each in servers:
            each.listen()
        with closed_unless_needed(cluster_of(servers[0]), unexpected):
            pass
        servers[0].setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
        with closed_unless_needed(cluster_of(servers[0]), lines.append):
            pass
    assert len(lines) == 1


def test_an_error_passes_and_nothing_is_told(server: socket.socket) -> None:
    threads = threading.active_count()
    with pytest.raises(KeyError), closed_unless_needed(cluster_of(server), unexpected):
        raise KeyError
    assert threading.active_count() == threads


def test_workers_on_other_machines_can_connect(server: socket.socket) -> None:
    outer, port = outer_address(), server.getsockname()[1]
    server.listen()
    cluster = Cluster((f"127.0.0.1:{port}", f"{outer}:1"), 0)
    with closed_unless_needed(cluster, unexpected):
        pass
    assert answers(outer, port)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (("127.0.0.1:5", "127.0.0.1:6"), True),
        (("127.0.0.1:5", "[::1]:6", "127.3.0.1:5"), True),
        (("localhost:5", "localhost:6"), True),
        (("127.0.0.1:5", "10.0.0.1:6"), False),
        (("[fd00::2]:5", "[::1]:6"), False),
        (("localhost:5", "there-is-no-such-machine.invalid:6"), False),
    ],
)
def test_which_addresses_are_of_the_loopback_interface(
    addresses: tuple[str, ...], expected: bool
) -> None:
    assert is_on_loopback(Cluster(addresses, 0)) is expected
