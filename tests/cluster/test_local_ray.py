"""A local Ray: it listens on the loopback interface, and leaves nothing behind."""

import os
import signal
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from local_ray import PATIENCE, PATIENT, Command, is_loopback, listeners

Start = Callable[..., Command]

WORKING = """
import os, time
from cnnforge.distributed.ray_start import cluster

with cluster(workers=2):
    import ray

    @ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)
    class Trainer:
        def work(self, text):
            print(text, flush=True)
            time.sleep(1.5)
            return os.getpid(), "working" in os.environ, __import__("sys").path[:2]

    trainer = Trainer.remote()
    process, _, path = ray.get(trainer.work.remote("the first line"))
    assert os.getcwd() not in path, path
    second = trainer.work.remote("the second line")
    time.sleep(0.5)
    os.kill(process, 9)
    assert ray.get(second)[0] != process
    time.sleep(1)
    print(process)
    {more}
print("ended")
"""


def folders(started: Command) -> set[Path]:
    """The folders of a local Ray that a command has made and not removed."""
    places = {Path(tempfile.gettempdir()), Path("/tmp")}
    return {each for place in places for each in place.glob(f"cnnforge-{started.process.pid}-*")}


def test_t29_nothing_listens_off_the_loopback_interface(
    command: Start, run: Path, pictures: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    words = ["predict", run, pictures, "--output", "rows.csv", "--workers", "2", *PATIENT]
    started = command(*words, HOME=str(home), RAY_ADDRESS="10.0.0.9:6379")
    found: set[str] = set()
    names: set[str] = set()
    modes: set[tuple[str, int]] = set()
    while started.process.poll() is None:
        for process, address, _ in listeners(started.processes()):
            found.add(address)
            names.add(Path(f"/proc/{process}/comm").read_text() if os.path.exists("/proc") else "")
        for folder in folders(started):
            for path in (folder, folder / "token"):
                if path.exists():
                    modes.add((path.name[:5], stat.S_IMODE(path.stat().st_mode)))
        time.sleep(0.1)
    assert started.wait() == 0, started.err
    assert len(names) >= 3
    assert found
    assert all(map(is_loopback, found)), found
    assert modes == {("cnnfo", 0o700), ("token", 0o600)}
    assert not started.left()
    assert not folders(started)
    # Neither a token nor settings of Ray are written for the user.
    assert not (home / ".ray").exists()


def test_what_a_worker_prints_has_its_name_and_a_dead_one_is_named(command: Start) -> None:
    started = command("-c", WORKING.format(more=""))
    assert started.wait() == 0, started.err
    process = started.out.split()[0]
    assert started.out == f"{process}\nended\n"
    lines = started.err.splitlines()
    assert lines[:2] == [
        f"Trainer (process {process}): the first line",
        f"Trainer (process {process}): the second line",
    ]
    assert f"warning: worker process {process} died: it was killed, or it crashed" in lines
    assert len(lines) == 4, lines
    assert not started.left()


def test_nothing_is_left_after_an_error(command: Start) -> None:
    started = command("-c", WORKING.format(more="raise ValueError('mine')"))
    assert started.wait() == 1
    assert started.err.endswith("ValueError: mine\n")
    assert not started.left()
    assert not folders(started)


@pytest.mark.parametrize("moment", ["gcs_server", "PredictGroups"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(
    command: Start, run: Path, pictures: Path, number: signal.Signals, moment: str
) -> None:
    started = command("predict", run, pictures, "--output", "rows.csv", "--workers", "2", *PATIENT)
    started.until(lambda: started.titled(moment))
    started.process.send_signal(number)
    assert started.wait() == 128 + number, started.err
    assert started.err.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in started.err
    assert not started.left()
    assert not folders(started)
    assert not started.path("rows.csv").exists()


def test_nothing_runs_on_after_sigkill(command: Start, run: Path, pictures: Path) -> None:
    words = ["predict", run, pictures, "--output", "rows.csv", "--workers", "2", *PATIENT]
    killed = command(*words)
    killed.until(lambda: killed.titled("PredictGroups"))
    killed.process.kill()
    assert killed.wait() == 137
    assert not killed.left(PATIENCE)
    assert folders(killed)
    # The next start removes the folder.
    assert command(*words, "--limit", "5").wait() == 0
    assert not folders(killed)


def test_a_long_path_for_temporary_files(command: Start, run: Path, pictures: Path) -> None:
    folder = pictures.parent / ("t" * 100)
    folder.mkdir()
    words = [
        "predict",
        run,
        pictures,
        "--output",
        "rows.csv",
        "--workers",
        "1",
        "--limit",
        "5",
        *PATIENT,
    ]
    started = command(*words, TMPDIR=str(folder))
    assert started.wait() == 0, started.err
    assert not started.left()
