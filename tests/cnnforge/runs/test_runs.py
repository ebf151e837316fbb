"""The run directory."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cnnforge.configuration import read_config
from cnnforge.errors import RunError, UsageError
from cnnforge.runs import RunDirectory, to_toml

OPTIONS = {"model": "lenet", "epochs": 3}


def made(tmp_path: Path, *, model: bool = True) -> RunDirectory:
    run = RunDirectory.create(tmp_path, "lenet", "mnist5k")
    run.write_config(OPTIONS, {"cnnforge": "0.1.0"})
    if model:
        run.model.write_bytes(b"")
    return run


@pytest.mark.parametrize(
    ("model", "dataset", "name"),
    [
        ("lenet", "mnist5k", "lenet-mnist5k-001"),
        ("builtin/lenet", "builtin/mnist5k", "lenet-mnist5k-001"),
        ("lenet", "images:/data/Cats & Dogs", "lenet-cats_dogs-001"),
        ("lenet", "csv:/data/train.csv", "lenet-train-001"),
        ("lenet", "images:/", "lenet-data-001"),
        ("detector", "digits_in_scenes:64", "detector-digits_in_scenes_64-001"),
        ("detector", "yolo:/home/cats/data.yaml", "detector-cats-001"),
        ("detector", "coco:/home/cats/annotations.json", "detector-cats-001"),
        ("detector", "coco:/home/cats/tigers.json", "detector-tigers-001"),
    ],
)
def test_the_name_says_what_was_trained_on_what(
    tmp_path: Path, model: str, dataset: str, name: str
) -> None:
    assert RunDirectory.create(tmp_path / "runs", model, dataset).path == tmp_path / "runs" / name


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    (tmp_path / "lenet-mnist5k-007").mkdir()
    (tmp_path / "lenet-mnist5k-1234").write_text("a file has a number too")
    (tmp_path / "lenet-mnist5k-old").mkdir()
    assert RunDirectory.create(tmp_path, "lenet", "mnist5k").name == "lenet-mnist5k-1235"


def test_runs_that_start_together_get_different_directories(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: RunDirectory.create(tmp_path, "m", "d").path, range(40)))
    assert len(set(runs)) == 40


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    run, other = RunDirectory.create(tmp_path, "a", "b"), RunDirectory.create(tmp_path, "a", "b")
    with run.claimed(), other.claimed():
        before = list(run.path.iterdir())
        with (
            pytest.raises(RunError, match="another process is training the run"),
            RunDirectory(run.path).claimed(),
        ):
            pytest.fail("two have it")
        assert list(run.path.iterdir()) == before == []
    with run.claimed():
        pass


def test_no_directory_can_be_made_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="cannot create a run directory in"):
        RunDirectory.create(tmp_path / "runs", "m", "d")


def test_the_config_comes_back(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "m", "d")
    options: dict[str, Any] = {
        "text": 'quote " backslash \\ newline \n delete \x7f ü',
        "number": -3,
        "rate": 1e-05,
        "yes": True,
        "list": ["a", "b,]"],
        "empty": [],
    }
    run.write_config({**options, "missing": None}, {"shape": [28, 28, 1]})
    assert run.read_config() == (options, {"format": 2, "shape": [28, 28, 1]})


def test_toml_has_one_line_per_value() -> None:
    assert to_toml({"a": 1, "b": None, "c": False}) == "a = 1\nc = false\n"


def test_a_whole_run_opens(tmp_path: Path) -> None:
    run = made(tmp_path)
    assert RunDirectory.open(run.path) == run


def test_what_is_no_run_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, reason in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "file", "is a file"),
        (tmp_path, "is not a run directory: it has no config.toml"),
    ):
        with pytest.raises(UsageError, match=reason):
            RunDirectory.open(path)


def test_a_run_without_a_model_says_how_to_go_on(tmp_path: Path) -> None:
    run = made(tmp_path, model=False)
    with pytest.raises(RunError, match=r"has no model\.keras.*--resume"):
        RunDirectory.open(run.path)
    assert RunDirectory.open(run.path, needs=()) == run


def test_a_model_that_was_removed_is_not_said_to_be_unfinished(tmp_path: Path) -> None:
    run = made(tmp_path, model=False)
    # Training writes this row before it saves the model.
    run.write_text("metrics.csv", "epoch,loss\n1,0.5\n")
    with pytest.raises(RunError, match="stopped before the end of the first epoch"):
        RunDirectory.open(run.path)
    run.write_text("metrics.csv", "epoch,loss\n1,0.5\n2,0.4\n")
    with pytest.raises(RunError, match=r"has no model\.keras: the file was removed") as caught:
        RunDirectory.open(run.path)
    assert "--resume" not in str(caught.value)
    (run.path / "metrics.csv").unlink()
    run.write_json("evaluation.json", {})
    with pytest.raises(RunError, match=r"has no model\.keras: the file was removed"):
        RunDirectory.open(run.path)


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace("format = 2", "format = 3"))
    with pytest.raises(UsageError, match=r"newer cnnforge .*run format 3.*reads 2"):
        RunDirectory.open(run.path)


@pytest.mark.parametrize("text", ["model = ", "model = 'lenet'", "run = 3", "\xff"])
def test_a_damaged_config_is_said(tmp_path: Path, text: str) -> None:
    run = made(tmp_path)
    (run.path / "config.toml").write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=r"config\.toml"):
        RunDirectory.open(run.path)


def test_a_file_that_cannot_be_written_is_a_run_error(tmp_path: Path) -> None:
    run = made(tmp_path)
    with pytest.raises(RunError, match="could not be written"):
        run.write_text("missing/file", "x")


@pytest.mark.parametrize(
    "data",
    [os.fsdecode(b"images:/r\xe4um"), r"images:/r\xe4um", r"C:\x5c" + "\x7f\n", "ä", r"\x41"],
)
def test_a_path_of_any_bytes_is_read_back_from_a_config_that_is_utf8(
    tmp_path: Path, data: str
) -> None:
    run = made(tmp_path)
    run.write_config({"data": data}, {"data": data, "callbacks": [data]})
    (run.path / "config.toml").read_text(encoding="utf-8")
    options, table = run.read_config()
    assert options["data"] == table["data"] == table["callbacks"][0] == data
    assert read_config(run.path / "config.toml")["data"] == data


def test_a_second_interrupt_does_not_keep_a_discarded_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create(tmp_path, "lenet", "mnist5k")
    remove, interrupts = shutil.rmtree, [KeyboardInterrupt]

    def interrupted_once(*given: Any, **named: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        remove(*given, **named)

    monkeypatch.setattr(shutil, "rmtree", interrupted_once)
    with pytest.raises(KeyboardInterrupt), run.discarded_on_error():
        raise KeyboardInterrupt
    assert not interrupts
    assert not run.path.exists()
