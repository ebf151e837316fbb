"""The folder of a local Ray, and the end of processes."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cnnforge.distributed.processes import private_folder, ray_folder
from cnnforge.errors import CnnforgeError


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_only_this_user_can_read_the_folder_and_it_is_removed(temporary: Path) -> None:
    with private_folder() as folder:
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        os.makedirs(ray_folder(folder))
        (folder / "token").write_text("x")
        # The socket of Ray with the longest path.
        session = "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
        assert len(f"{ray_folder(folder)}/{session}") <= 107
    assert not list(temporary.iterdir())
    temporary.rmdir()


def test_a_long_path_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 80)))
    with private_folder() as folder:
        assert len(str(folder)) < 40
    assert not folder.exists()


def test_no_folder_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: str) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", fails)
    with pytest.raises(CnnforgeError, match=r"set TMPDIR to a folder whose path has at most \d+"):
        private_folder().__enter__()


def test_folders_of_killed_processes_are_removed(temporary: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    old, own = (f"cnnforge-{number}-abc" for number in (ended.pid, os.getpid()))
    for name in (old, own, "cnnforge-x"):
        (temporary / name / "r").mkdir(parents=True)
    with private_folder():
        assert not (temporary / old).exists()
    assert (temporary / own).exists()
    assert (temporary / "cnnforge-x").exists()


# Each program runs in a process of its own, which has no other children.
BEGIN = """
import os, subprocess, time
from cnnforge.distributed import processes
from cnnforge.distributed.processes import Descendants

def tree():
    return processes.descendants({})
"""

ALL_ARE_KILLED = """
before = subprocess.Popen(["sleep", "100"])
started = Descendants()
# The shell ends, and its child belongs to nobody of this process then.
orphan = subprocess.run(
    ["sh", "-c", "sleep 100 >/dev/null & echo $!; sleep 0.3"],
    stdout=subprocess.PIPE,
    check=True,
    text=True,
)
parent = subprocess.Popen(["sh", "-c", "sleep 100 & sleep 100"])
try:
    while len(tree()) < 3:
        time.sleep(0.01)
    started.look()
    started.kill()
    assert parent.poll() is not None or not os.path.exists(f"/proc/{parent.pid}")
    assert before.poll() is None
    assert not {each for each in tree() if each != before.pid}
finally:
    before.kill()
    before.wait()
    os.kill(int(orphan.stdout), 9)
"""

PARENT_HAS_ENDED = """
started = Descendants()
parent = subprocess.Popen(["sh", "-c", "sleep 100 & sleep 0.3"])
while len(tree()) < 2:
    time.sleep(0.01)
started.look()
orphan = next(each for each in tree() if each != parent.pid)
parent.wait()
started.kill()
state = processes.state_of(orphan)
assert state is None or state[1] == "Z"
"""

OTHERS_ARE_LEFT_ALONE = """
server = subprocess.Popen(
    ["sh", "-c", "read go; sleep 100 & echo $!; wait"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
started = Descendants()
own = subprocess.Popen(["sleep", "100"])
server.stdin.write("go\\n")
server.stdin.flush()
later = int(server.stdout.readline())
try:
    assert {server.pid, own.pid, later} <= set(tree())
    started.kill()
    assert set(tree()) == {server.pid, later}
    assert server.poll() is None
    assert processes.state_of(later)[1] != "Z"
finally:
    os.kill(later, 9)
    server.wait()
"""


def run_alone(program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


def test_all_processes_that_were_started_are_killed() -> None:
    run_alone(ALL_ARE_KILLED)


def test_a_process_is_known_after_its_parent_has_ended() -> None:
    run_alone(PARENT_HAS_ENDED)


def test_processes_that_ran_before_and_their_later_ones_are_left_alone() -> None:
    run_alone(OTHERS_ARE_LEFT_ALONE)
