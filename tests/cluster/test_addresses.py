"""Clusters that run already, and addresses at which none answers."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_ray import PATIENCE, Command

Start = Callable[..., Command]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield listening.getsockname()[1]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(port: int) -> bool:
    with socket.socket() as trying:
        return trying.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("kind", ["", "ray://"])
def test_a_start_that_never_completes_ends(
    command: Start, run: Path, pictures: Path, silent: int, kind: str
) -> None:
    address = f"{kind}127.0.0.1:{silent}"
    words = ["predict", run, pictures, "--output", "rows.csv", "--workers", "2"]
    started = command(*words, "--address", address, "--startup-timeout", "3s")
    assert started.wait() == 1
    # A part of Ray in C++ may write a line of its own after the end of the time.
    lines = [line for line in started.err.splitlines() if not line.startswith("[20")]
    message = f"error: the Ray cluster at {address} did not answer within 3 s: check"
    assert lines[-1].startswith(message)
    assert sum("Ray" in line for line in lines) == 1
    assert not started.left()


@pytest.fixture(scope="module")
def others() -> Iterator[tuple[list[str], dict[str, str]]]:
    """Addresses of a cluster of another program, and the environment with its token."""
    folder = Path(tempfile.mkdtemp(prefix="o", dir="/tmp"))
    token = folder / "token"
    descriptor = os.open(token, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, b"0123456789abcdef" * 4)
    os.close(descriptor)
    port, client = free_ports(2)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    words = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    words += [f"--ray-client-server-port={client}", "--include-dashboard=false", "--num-cpus=3"]
    words += [f"--temp-dir={folder / 'r'}", "--object-store-memory=200000000"]
    head = None
    end = time.monotonic() + PATIENCE
    for place in (port, client):
        while not answers(place):
            # `ray start` gives up after 30 s, which a busy machine may need.
            if head is None or head.poll() is not None:
                assert time.monotonic() < end, (folder / "log").read_text()
                with (folder / "log").open("wb") as log:
                    head = subprocess.Popen(
                        [Path(sys.executable).with_name("ray"), *words],
                        env={**os.environ, **environment, "RAY_USAGE_STATS_ENABLED": "0"},
                        stdout=log,
                        stderr=log,
                    )
            time.sleep(0.1)
    assert head is not None
    time.sleep(5)
    yield [f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"], environment
    head.terminate()
    head.wait(PATIENCE)


@pytest.mark.parametrize("place", [0, 1])
def test_a_cluster_that_runs_predicts_the_same(
    command: Start,
    run: Path,
    pictures: Path,
    expected: bytes,
    others: tuple[list[str], dict[str, str]],
    place: int,
    tmp_path: Path,
) -> None:
    addresses, environment = others
    words = ["predict", run, pictures, "--output", tmp_path / "rows.csv", "--workers", "2"]
    started = command(*words, "--address", addresses[place], **environment)
    assert started.wait() == 0, started.err
    assert (tmp_path / "rows.csv").read_bytes() == expected
    assert "Ray" not in started.err


def test_too_few_processors_are_named(
    command: Start, run: Path, pictures: Path, others: tuple[list[str], dict[str, str]]
) -> None:
    addresses, environment = others
    words = ["predict", run, pictures, "--output", "rows.csv", "--workers", "9"]
    started = command(*words, "--address", addresses[0], **environment)
    assert started.wait() == 1
    assert "has 3 processors, and 9 workers need 9: use --workers 3, or add" in started.err


def test_a_wrong_token_is_refused(
    command: Start,
    run: Path,
    pictures: Path,
    others: tuple[list[str], dict[str, str]],
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("f" * 64)
    words = ["predict", run, pictures, "--output", "rows.csv", "--workers", "1"]
    words += ["--address", others[0][0], "--startup-timeout", "10s"]
    started = command(*words, RAY_AUTH_TOKEN_PATH=str(token))
    assert started.wait() == 1
    assert f"warning: other users can read the token of the cluster; type: chmod 600 {token}" in (
        started.err
    )
    assert "the token" in started.err.splitlines()[-1]
