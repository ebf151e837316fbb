"""Several processes at once, and machines on which something is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import NO_PRIVILEGES, files_in
from odd_pictures import folder_of

EPOCHS = ("--epochs", "3")
NOBODY = 65534
POOLING = """
import numpy as np
import cnnforge_kernels
print(cnnforge_kernels.max_pool2d(np.ones((1, 4, 4, 1), "f"))[0].sum())
"""
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


def test_two_trainings_into_one_folder(train, whole, tmp_path: Path) -> None:
    running = [train("small", tmp_path, *EPOCHS, wait=False) for _ in range(2)]
    ended = [each.wait() for each in running]
    assert [each.code for each in ended] == [0, 0]
    runs = {Path(each.json["run"]) for each in ended}
    assert sorted(runs) == sorted(tmp_path.iterdir())
    assert len(runs) == 2
    expected = whole("small", *EPOCHS).json["weights"]
    assert [each.json["weights"] for each in ended] == [expected] * 2


def test_two_first_compilations_at_once(commands, tmp_path: Path) -> None:
    empty = {"XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    running = [commands.start(before=POOLING, environment=empty) for _ in range(2)]
    ended = [each.wait() for each in running]
    # The third one loads what they have written.
    ended.append(commands.run(before=POOLING, environment=empty))
    assert [(each.code, each.out, each.err) for each in ended] == [(0, "4.0\n", "")] * 3


def test_predict_while_train_writes(train, commands, tmp_path: Path) -> None:
    from faulty_toy import __file__ as plugin

    running = train("small", tmp_path, "--epochs", "40", wait=False)
    running.says(" 1/40 ")
    run = tmp_path / "small-toy-001"
    for _ in range(2):
        output = tmp_path.parent / f"{tmp_path.name}.csv"
        command = ["predict", run, "toy", "--kernels", "keras", "--plugin", plugin]
        ended = commands.run(*command, "--output", output)
        assert ended.code == 0, ended.err
        assert len(output.read_text().splitlines()) == 12 + 1
    ended = running.wait()
    assert ended.code == 0, ended.err
    assert ended.json["epochs"] == 40


def test_a_home_that_is_read_only(train, whole, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    before = f"import os\nos.chmod({str(home)!r}, 0o555)\n{NO_PRIVILEGES}"
    nowhere = {"HOME": str(home), "XDG_CACHE_HOME": None}
    ended = train("small", tmp_path / "runs", *EPOCHS, before=before, environment=nowhere)
    assert ended.code == 0, ended.err
    assert ended.json["weights"] == whole("small", *EPOCHS).json["weights"]
    assert list(home.iterdir()) == []


@AS_ROOT
def test_a_user_without_a_home(commands) -> None:
    """It has no line in the list of users either."""
    unset = {"HOME": None, "XDG_CACHE_HOME": None}
    ended = commands.run("plugins", "--json", environment=unset, user=4_000_000)
    assert ended.code == 0, ended.err
    assert ended.err.startswith("note: this user has no home folder")


@AS_ROOT
def test_a_disk_with_one_megabyte_left(train, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        # The state of the model has 2 MB.
        ended = train("wide", disk, *EPOCHS)
        assert ended.code == 1, ended.err
        (line,) = ended.errors
        assert "could not be written" in line
        assert "No space left on device" in line
        assert "Traceback" not in ended.err
        assert not [name for name in files_in(disk) if "tmp" in name]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@AS_ROOT
def test_no_further_thread_can_be_had(commands, tmp_path: Path) -> None:
    command = ["train", "lenet", "--data", "mnist5k", "--output", tmp_path / "runs"]
    ended = commands.run(*command, user=NOBODY, limits={"NPROC": 1}, before=NO_PRIVILEGES)
    assert ended.code == 1, ended.err
    (line,) = ended.errors
    assert line.startswith("error: this user may start no further thread, and ")
    assert line.endswith("raise the limit of 'ulimit -u' or of the container")


def test_a_locale_without_letters_and_a_path_with_all_of_them(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "grüße an\nalle", classes=("schön", "two words"))
    program = "import sys; from cnnforge.cli import main; sys.exit(main())"
    plain = {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, "data", "check", str(data)],
        env={**os.environ, **plain},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert b"20 images in 2 classes" in done.stdout
    assert done.stdout.isascii()


def test_a_path_with_blanks_umlauts_and_a_newline(train, whole, commands, tmp_path: Path) -> None:
    from faulty_toy import __file__ as plugin

    output = tmp_path / "grüße an\nalle"
    run = train("small", output, "--epochs", "1").json["run"]
    assert run.startswith(str(output))
    resumed = train("--resume", run, *EPOCHS)
    assert resumed.json["weights"] == whole("small", *EPOCHS).json["weights"]
    rows = output / "rows 1.csv"
    command = ["predict", run, "toy", "--kernels", "keras", "--plugin", plugin, "--output", rows]
    ended = commands.run(*command)
    assert ended.code == 0, ended.err
    assert len(rows.read_text().splitlines()) == 12 + 1
