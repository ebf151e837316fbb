"""`cnnforge predict --workers` writes the file that one process writes, whatever dies."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from local_ray import PATIENT, Command, title

pyarrow = pytest.importorskip("pyarrow")

Start = Callable[..., Command]


def test_the_file_of_a_folder_is_the_same(
    command: Start, run: Path, pictures: Path, expected: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "rows.csv"
    started = command("predict", run, pictures, "--output", output, "--workers", "3", *PATIENT)
    assert started.wait() == 0, started.err
    assert output.read_bytes() == expected
    assert len(expected.splitlines()) == 1 + 3002


@pytest.mark.parametrize("options", [[], ["--limit", "1497"]])
def test_the_file_of_parquet_shards_is_the_same(
    command: Start, run: Path, pictures: Path, tmp_path: Path, options: list[str]
) -> None:
    from pyarrow import parquet

    files = sorted(path for path in pictures.iterdir() if path.exists() and not path.is_symlink())
    (tmp_path / "shards").mkdir()
    for number in range(3):
        cells = [{"bytes": path.read_bytes()} for path in files[500 * number : 500 * number + 500]]
        cells[7] = {"bytes": None} if number == 1 else {"bytes": b"<html>"}
        table = pyarrow.table({"image": cells})
        parquet.write_table(table, tmp_path / "shards" / f"{number}.parquet", row_group_size=90)
    outputs = [tmp_path / "one.json", tmp_path / "two.json"]
    for output, more in zip(outputs, ([], ["--workers", "2"]), strict=True):
        words = ["predict", run, tmp_path / "shards", "--output", output, *options, *more]
        started = command(*words)
        assert started.wait() == 0, started.err
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_t30_a_row_for_each_file_whatever_dies(
    command: Start, run: Path, pictures: Path, expected: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "rows.csv"
    started = command("predict", run, pictures, "--output", output, "--workers", "2", *PATIENT)
    killed = []
    for name in ("read_groups", "PredictGroups", "read_groups", "PredictGroups"):
        victims = started.until(lambda name=name: set(started.titled(f"({name})")) - set(killed))
        victim = random.Random(len(killed)).choice(sorted(victims))
        assert name in title(victim) or not title(victim)
        os.kill(victim, 9)
        killed.append(victim)
    assert started.wait() == 0, started.err
    assert output.read_bytes() == expected
    named = [victim for victim in killed if f"worker process {victim} died" in started.err]
    assert len(named) >= 3, started.err
    assert not started.left()


FULL = """
import sys
from cnnforge.cli import main
sys.stdout = open("/dev/full", "w")
sys.exit(main({words}))
"""


def test_an_error_while_workers_still_predict(command: Start, run: Path, pictures: Path) -> None:
    """Its message and its exit code are those of one process."""
    ends = []
    for more in ([], ["--workers", "2", *PATIENT]):
        words = ["predict", str(run), str(pictures), *more]
        started = command("-c", FULL.format(words=words))
        ends.append((started.wait(), [line for line in started.err.splitlines() if "rror" in line]))
        assert not started.left()
    assert ends[0] == ends[1]
    assert ends[0][0] != 0


def test_rays_central_process_is_killed(command: Start, run: Path, pictures: Path) -> None:
    """Ray ends the command after a minute, and says nothing."""
    words = ["predict", run, pictures, "--output", "rows.csv", "--workers", "2", *PATIENT]
    started = command(*words)
    started.until(lambda: started.titled("(PredictGroups)"))
    (process,) = started.titled("gcs_server")
    os.kill(process, 9)
    assert started.wait() == 1, started.err
    last = started.err.splitlines()[-1]
    assert last.startswith("error: the Ray cluster is lost: nothing has answered at 127.0.0.1:")
    assert not started.path("rows.csv").exists()
    assert not started.left()
