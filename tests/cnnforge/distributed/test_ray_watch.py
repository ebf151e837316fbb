"""A cluster that answers no more. Nothing here needs Ray."""

import socket
from types import SimpleNamespace

import pytest

from cnnforge.distributed import ray_watch
from cnnforge.distributed.ray_watch import ClusterWatch
from cnnforge.errors import CnnforgeError, UsageError


def test_a_cluster_that_answers_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    monkeypatch.setattr(ray_watch, "time", clock)
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        watch = ClusterWatch(address, lines.append)
        assert watch.look()
        clock.now += 100
        watch.check()
        assert watch.look()
    assert not watch.look()
    clock.now += 20
    watch.check()
    clock.now += 1
    message = rf"^the Ray cluster is lost: nothing has answered at {address} for 21 s$"
    with pytest.raises(CnnforgeError, match=message):
        watch.check()
    assert not watch.look()
    assert not lines
    # The command still runs.
    clock.now += 25
    for _ in range(2):
        assert not watch.look()
    assert lines == [f"error: the Ray cluster is lost: nothing has answered at {address} for 46 s"]


def test_a_cluster_that_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    monkeypatch.setattr(ray_watch, "time", clock)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
    watch = ClusterWatch(f"127.0.0.1:{place[1]}", print)
    assert not watch.look()
    clock.now += 19
    with socket.create_server(place):
        assert watch.look()
    clock.now += 19
    assert not watch.look()
    clock.now += 19
    watch.check()


def test_a_cluster_without_an_address_is_not_watched() -> None:
    watch = ClusterWatch("", print)
    assert watch.look()
    watch.check()
    with pytest.raises(UsageError):
        ClusterWatch("nowhere", print)
