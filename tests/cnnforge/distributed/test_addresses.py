"""Addresses of clusters, and what is said if none answers. Nothing here starts Ray."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnforge.distributed import addresses
from cnnforge.distributed.addresses import check_address, check_answers, open_token_file
from cnnforge.distributed.ray_start import cluster
from cnnforge.errors import CnnforgeError, UsageError


@pytest.fixture
def blackhole() -> Iterator[int]:
    """A port whose queue of connections is full: it neither accepts nor refuses another one."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        for _ in range(3):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listening.getsockname())
        yield listening.getsockname()[1]
        for each in waiting:
            each.close()


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("local", None),
        ("auto", None),
        ("10.0.0.5:6379", ("10.0.0.5", 6379)),
        ("ray://head.example:10001", ("head.example", 10001)),
        ("ray://[::1]:10001", ("::1", 10001)),
    ],
)
def test_addresses_of_clusters(address: str, found: tuple[str, int] | None) -> None:
    assert check_address(address) == found


@pytest.mark.parametrize(
    "address", ["", "head", "ray://head", "http://head:1", "head:0", "head:99999", "a b:1", "h:1/x"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected local, auto, HOST:PORT such as") as error:
        check_address(address)
    assert repr(address) in str(error.value)


def test_nothing_listens_at_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(CnnforgeError, match=rf"no Ray cluster answers at {address} \(Conn"):
            check_answers(address, 5)


@pytest.mark.parametrize("kind", ["", "ray://"])
def test_an_address_that_swallows_everything(blackhole: int, kind: str) -> None:
    start = time.monotonic()
    with pytest.raises(CnnforgeError, match=r"did not answer within 0.2 s: .*--startup-timeout"):
        check_answers(f"{kind}127.0.0.1:{blackhole}", 0.2)
    assert time.monotonic() - start < 5


def test_without_ray_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "find_spec", lambda name: None)
    with pytest.raises(CnnforgeError, match=r"type: pip install 'cnnforge\[cluster\]'") as error:
        cluster().__enter__()
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_a_token_that_others_can_read_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert open_token_file() is None
    path.write_text("secret")
    os.chmod(path, 0o644)
    assert open_token_file() == str(path)
    os.chmod(path, 0o600)
    assert open_token_file() is None
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    os.chmod(tmp_path / ".ray" / "auth_token", 0o640)
    assert open_token_file() == str(tmp_path / ".ray" / "auth_token")
