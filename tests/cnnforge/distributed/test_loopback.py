"""T29: servers of workers that other machines cannot reach."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from strangers import answers, outer_address

from cnnforge.distributed import loopback, socket_filter
from cnnforge.distributed.loopback import closed_unless_needed, is_on_loopback
from cnnforge.distributed.tf_config import Cluster

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux has filters for sockets"
)

families = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
# Of `asm-generic/socket.h`: the filter of a socket cannot be changed any more.
SO_LOCK_FILTER = 44
INNER = ("127.0.0.1", "127.0.0.2", "::1")


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while loopback._RESERVED:
        loopback._RESERVED.pop().close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with server_at(0) as made:
        yield made


def server_at(port: int, family: socket.AddressFamily = socket.AF_INET6) -> socket.socket:
    """Return a socket that is bound to all addresses as gRPC does, and does not listen yet."""
    made = socket.socket(family)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        made.setsockopt(socket.SOL_SOCKET, option, 1)
    made.bind(("", port))
    return made


def cluster_of(server: socket.socket) -> Cluster:
    return Cluster((f"127.0.0.1:{server.getsockname()[1]}", "127.0.0.1:1"), 0)


def unexpected(line: str) -> None:
    raise AssertionError(line)


@families
def test_t29_only_this_machine_connects(
    server: socket.socket, family: socket.AddressFamily
) -> None:
    outer, port = outer_address(family), server.getsockname()[1]
    with closing(socket.create_server(("", 0), family=family)) as other:
        with closed_unless_needed(cluster_of(server), unexpected):
            server.listen()
            inside = [answers(each, port) for each in (*INNER, outer)]
        after = [answers(each, port) for each in (*INNER, outer)]
        assert inside == after == [True, True, True, False]
        # Another server of this process is as before.
        assert answers(outer, other.getsockname()[1])


@families
def test_t29_each_connection_goes_to_the_right_server(
    family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without IP version 6, and without the filter that the server gets at the end."""
    monkeypatch.setattr(socket_filter, "_has_loopback_of_6", lambda: family == socket.AF_INET6)
    monkeypatch.setattr(socket_filter, "close_servers", lambda port, *others: True)
    with server_at(0, family) as server:
        outer, port = outer_address(family), server.getsockname()[1]
        with closed_unless_needed(cluster_of(server), unexpected):
            server.listen()
        assert all(answers("127.0.0.1", port) for _ in range(20))
        assert not any(answers(outer, port, 0.05) for _ in range(20))


def test_t29_more_servers_of_the_port(server: socket.socket) -> None:
    outer, port = outer_address(), server.getsockname()[1]
    with server_at(port) as second, closed_unless_needed(cluster_of(server), unexpected):
        for each in (server, second):
            each.listen()
        assert all(answers("127.0.0.1", port) for _ in range(20))
        assert not any(answers(outer, port, 0.05) for _ in range(20))


@families
def test_t29_with_an_old_kernel_the_server_is_closed_after_its_start(
    server: socket.socket, family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(port: int) -> socket.socket:
        raise OSError(92, "Protocol not available")

    monkeypatch.setattr(socket_filter, "reserved", missing)
    outer, port = outer_address(family), server.getsockname()[1]
    with closed_unless_needed(cluster_of(server), unexpected):
        assert os.environ["TF_GRPC_REUSE_PORT"] == "0"
        server.listen()
    assert [answers(each, port) for each in (*INNER, outer)] == [True, True, True, False]


def test_no_other_server_can_listen_without_asking(server: socket.socket) -> None:
    port = server.getsockname()[1]
    assert "TF_GRPC_REUSE_PORT" not in os.environ
    with closed_unless_needed(cluster_of(server), unexpected):
        assert os.environ["TF_GRPC_REUSE_PORT"] == "1"
        server.listen()
    assert "TF_GRPC_REUSE_PORT" not in os.environ
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port))


def test_if_there_is_no_server_the_user_is_told(server: socket.socket) -> None:
    lines: list[str] = []
    with closed_unless_needed(cluster_of(server), lines.append):
        pass
    port = server.getsockname()[1]
    assert len(lines) == 1
    assert lines[0].startswith(
        f"warning: while training runs, other machines can connect to port {port} of this one"
    )


def test_if_a_server_cannot_be_closed_the_user_is_told(server: socket.socket) -> None:
    lines: list[str] = []
    server.listen()
    port = server.getsockname()[1]
    assert socket_filter.close_servers(port)
    server.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)
    with closed_unless_needed(cluster_of(server), lines.append):
        pass
    assert len(lines) == 1


def test_nothing_stays_open(server: socket.socket) -> None:
    """Neither a copy of a file that is open, nor one of another socket."""
    with open(os.devnull), socket.create_server(("127.0.0.1", 0)):
        before = len(os.listdir("/proc/self/fd"))
        with closed_unless_needed(cluster_of(server), unexpected):
            server.listen()
        # The socket that gets what comes from other machines.
        assert len(os.listdir("/proc/self/fd")) == before + 1


def test_an_error_passes_and_nothing_is_told(server: socket.socket) -> None:
    threads = threading.active_count()
    with pytest.raises(KeyError), closed_unless_needed(cluster_of(server), unexpected):
        raise KeyError
    assert threading.active_count() == threads


def test_workers_on_other_machines_can_connect(server: socket.socket) -> None:
    outer, port = outer_address(), server.getsockname()[1]
    cluster = Cluster((f"127.0.0.1:{port}", f"{outer}:1"), 0)
    with closed_unless_needed(cluster, unexpected):
        server.listen()
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
