"""The run that a user means."""

import os
from pathlib import Path

import pytest

from cnnforge.errors import UsageError
from cnnforge.runs.finding import find_run, runs_in


def make(path: Path, time: float) -> Path:
    path.mkdir(parents=True)
    for name, at in (("config.toml", time - 5), ("metrics.csv", time)):
        (path / name).touch()
        os.utime(path / name, (at, at))
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three runs in `runs`, and one in `other/place`."""
    monkeypatch.chdir(tmp_path)
    make(Path("runs/lenet-digits-001"), 100)
    make(Path("runs/lenet-digits-002"), 300)
    make(Path("runs/mine"), 200)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "README").touch()
    make(Path("other/place/deep"), 50)
    return tmp_path


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("runs/mine", "runs/mine"),
        ("latest", "runs/lenet-digits-002"),
        ("./latest", "runs/lenet-digits-002"),
        ("runs/latest", "runs/lenet-digits-002"),
        ("other/place/latest", "other/place/deep"),
        ("~/runs/mine/", "{here}/runs/mine"),
        ("~/latest", None),
    ],
)
def test_find_run(here, monkeypatch, named, found):
    monkeypatch.setenv("HOME", str(here))
    if found is None:
        with pytest.raises(UsageError, match="there is no run in the folder"):
            find_run(Path(named))
    else:
        assert find_run(Path(named)) == Path(found.format(here=here))


def test_the_newest_run_is_the_one_whose_metrics_were_written_last(here):
    os.utime("runs/lenet-digits-001/metrics.csv", (400, 400))
    assert find_run(Path("latest")) == Path("runs/lenet-digits-001")
    os.utime("runs/mine/config.toml", (500, 500))
    assert find_run(Path("latest")) == Path("runs/mine")
    names = [path.name for path in runs_in(Path("runs"))]
    assert names == ["mine", "lenet-digits-001", "lenet-digits-002"]


def test_a_run_named_latest_is_not_the_newest(here):
    make(Path("latest"), 1)
    assert find_run(Path("latest")) == Path("latest")
    Path("other/place/latest").mkdir()
    with pytest.raises(UsageError, match="is not a run directory"):
        find_run(Path("other/place/latest"))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("runs/lenet-digit-2", "did you mean runs/lenet-digits-002"),
        ("lenet-digits-001", r"did you mean runs/lenet-digits-001\?$"),
        ("mine", r"did you mean runs/mine\?"),
        ("lastest", r"did you mean latest\?"),
        ("runs/mine/metrics.csv", "name the run itself, runs/mine"),
        ("runs/mine/model.keras", "name the run itself, runs/mine"),
        (
            "runs",
            "a folder of runs: .*runs/latest, the newest, or runs/lenet-digits-002, runs/mine",
        ),
        ("other/place", "other/place/latest, the newest, or other/place/deep"),
        ("other", r"has no config\.toml; the newest runs are runs/lenet-digits-002"),
        ("runs/README", "is a file, not a run"),
        ("nothing/latest", "there is no folder nothing"),
        ("zzz", "there is no run zzz; the newest runs are .*'cnnforge runs'"),
    ],
)
def test_what_is_not_a_run_leads_to_one(here, named, message):
    with pytest.raises(UsageError, match=message) as raised:
        find_run(Path(named))
    assert "\n" not in str(raised.value)


def test_without_runs_the_message_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for named in ("latest", "runs/some"):
        with pytest.raises(UsageError, match="train one with 'cnnforge train'"):
            find_run(Path(named))


def test_a_path_that_no_file_system_accepts_is_no_run():
    name = "long" * 100
    with pytest.raises(UsageError, match="there is no run long"):
        find_run(Path(name))
    with pytest.raises(UsageError, match=r"there is no folder long"):
        find_run(Path(name) / "latest")
