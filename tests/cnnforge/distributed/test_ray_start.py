"""A local Ray that starts slowly. Ray itself is not needed: its start is a fake."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnforge.distributed import ray_start
from cnnforge.distributed.addresses import LOCAL
from cnnforge.distributed.processes import Descendants
from cnnforge.errors import CnnforgeError

# What ray.init says if the raylet needs more than 30 s.
SLOW = (
    "The current node timed out during startup. This could happen because some of the raylet failed"
    " to startup or the GCS has become overloaded."
)


class FakeRay(SimpleNamespace):
    """The parts of Ray that start it. The first starts fail and leave a process and a file."""

    def __init__(self, failures: int, text: str = SLOW) -> None:
        super().__init__(calls=0, failures=failures, text=text, left=[])

    def init(self, _temp_dir: str, **options: Any) -> None:
        self.calls += 1
        folder = Path(_temp_dir)
        assert not folder.exists()
        assert all(each.poll() is not None for each in self.left)
        if self.calls <= self.failures:
            folder.mkdir()
            (folder / "session").touch()
            self.left.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1))
            raise Exception(self.text)

    def shutdown(self) -> None:
        pass


def start(ray: FakeRay, folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(ray_start, "_job_config", lambda: None)
    processes = Descendants()
    try:
        ray_start._started(LOCAL, {"_temp_dir": str(folder)}, processes, seconds).stop(1, processes)
    finally:
        assert all(each.poll() is not None for each in ray.left)
        for each in ray.left:
            each.stdin.close()


def test_a_slow_start_is_repeated_without_what_the_first_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay(failures=1)
    start(ray, tmp_path / "r", monkeypatch, 60)
    assert ray.calls == 2
    assert not (tmp_path / "r").exists()


def test_a_start_that_is_always_slow_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each look at the clock is ten seconds later.
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(ray_start, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    ray = FakeRay(failures=100)
    with pytest.raises(CnnforgeError, match=r"^Ray did not start within 45 s: .*--startup-timeout"):
        start(ray, tmp_path / "r", monkeypatch, 45)
    assert ray.calls == 5


def test_other_errors_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(failures=1, text="no room in /dev/shm")
    with pytest.raises(CnnforgeError, match=r"^Ray could not be started: .*no room in /dev/shm"):
        start(ray, tmp_path / "r", monkeypatch, 60)
    assert ray.calls == 1


def test_a_start_that_hangs_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(failures=0)
    ray.init = lambda **options: time.sleep(1)
    monkeypatch.setitem(sys.modules, "ray._private", SimpleNamespace(worker=ray))
    with pytest.raises(CnnforgeError, match=r"^Ray did not start within 0\.1 s"):
        start(ray, tmp_path / "r", monkeypatch, 0.1)
