"""Processes that meet before TensorFlow connects them, and those that do not come."""

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from cnnforge.distributed.meeting import meet
from cnnforge.distributed.tf_config import Cluster
from cnnforge.errors import WorkerError


def addresses(count: int) -> tuple[str, ...]:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    return (f"127.0.0.1:{port}", *(f"127.0.0.1:{number}" for number in range(1, count)))


def test_they_meet_in_any_order() -> None:
    names = addresses(3)

    def one(rank: int) -> float:
        time.sleep((2 - rank) * 0.2)
        return meet(Cluster(names, rank), 20.0)

    with ThreadPoolExecutor(3) as pool:
        left = list(pool.map(one, range(3)))
    assert all(0 < each < 20 for each in left)


def test_a_program_that_speaks_otherwise_is_ignored() -> None:
    names = addresses(2)
    host, port = Cluster(names, 0).host_and_port(0)

    def stranger() -> None:
        while True:
            try:
                with socket.create_connection((host, port), 1) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    return
            except OSError:
                time.sleep(0.01)

    with ThreadPoolExecutor(2) as pool:
        found = pool.submit(meet, Cluster(names, 0), 20.0)
        stranger()
        assert meet(Cluster(names, 1), 20.0) > 0
        assert found.result() > 0


def test_a_worker_that_does_not_come_is_named_on_all_others() -> None:
    names = addresses(3)

    def one(rank: int) -> str:
        with pytest.raises(WorkerError) as raised:
            meet(Cluster(names, rank), 1.0)
        assert raised.value.exit_code == 4
        return str(raised.value)

    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for message in pool.map(one, (0, 1)):
            assert message.startswith("worker 2 (127.0.0.1:2) has not started within 1 seconds")
    assert time.monotonic() - begun < 10


def test_a_first_worker_that_does_not_come_is_named() -> None:
    names = addresses(2)
    with pytest.raises(WorkerError, match=r"worker 0 \(127.0.0.1:\d+\) has not started"):
        meet(Cluster(names, 1), 0.5)


def test_lists_that_differ_are_refused() -> None:
    names = addresses(3)

    def second() -> str:
        with pytest.raises(WorkerError) as raised:
            meet(Cluster(names[:2], 1), 20.0)
        return str(raised.value)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(second)
        with pytest.raises(WorkerError, match="with 2 workers, and worker 0 one with 3"):
            meet(Cluster(names, 0), 20.0)
        assert "with 2 workers, and worker 0 one with 3" in answer.result()


def test_a_port_that_is_in_use_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        name = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WorkerError, match=f"worker 0 cannot listen at {name}"):
            meet(Cluster((name, "127.0.0.1:1"), 0), 1.0)


SCRIPT = """
import ctypes, sys
from cnnforge.distributed import meeting
meeting._CONNECTING = 0.0
with meeting.ended_after(float(sys.argv[1])):
    # It keeps other threads of Python from running.
    ctypes.PyDLL(None).usleep(int(sys.argv[2]) * 1000)
print("connected")
"""


@pytest.mark.parametrize(("seconds", "sleep", "code"), [(0.5, 30_000, 1), (20.0, 10, 0)])
def test_a_process_that_cannot_run_python_is_ended(seconds: float, sleep: int, code: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(seconds), str(sleep)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False)
    assert ended.returncode == code
    if code:
        assert ended.stderr.startswith("error: TensorFlow could not connect the workers within")
        assert len(ended.stderr.splitlines()) == 1
    else:
        assert (ended.stdout, ended.stderr) == ("connected\n", "")
