"""`cnnforge runs`."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cnnforge.cli import _render, main
from cnnforge.runs import RunDirectory

DONE = ["epoch,loss,val_loss,val_accuracy", "1,2.0,1.5,0.5", "2,1.0,1.2,0.75", "3,0.5,1.4,0.625"]


@pytest.fixture
def write(tmp_path: Path):
    """Return `write(name, ...)`: a run directory without a model that could be opened."""
    times = iter(range(1_000_000, 2_000_000, 1000))

    def write(
        name: str,
        rows: int = 3,
        *,
        total: int = 3,
        evaluated: bool = True,
        options: dict[str, Any] | None = None,
        table: dict[str, Any] | None = None,
        data: str = "images:/home/me/Photos",
    ) -> RunDirectory:
        (tmp_path / name / "last").mkdir(parents=True)
        run = RunDirectory(tmp_path / name)
        values = {"model": "lenet", "data": data, "epochs": total, **(options or {})}
        run.write_config(values, {"model": "builtin/lenet:3", **(table or {})})
        if rows:
            run.write_text("metrics.csv", "\n".join(DONE[: rows + 1]) + "\n")
            run.write_text("model.keras", "x" * 1_500_000)
        if evaluated:
            run.write_text("evaluation.json", "{}")
        time = next(times)
        for path in run.path.iterdir():
            os.utime(path, (time, time))
        return run

    return write


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["runs", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["runs"]


def state(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> str:
    (row,) = [row for row in listed(run.path.parent, capsys) if row["run"] == str(run.path)]
    return row["state"]


def test_a_run_is_a_row(write, tmp_path, capsys):
    write("old")
    run = write("new")
    first, second = listed(tmp_path, capsys)
    assert second["run"] == str(tmp_path / "old")
    assert first == {
        "run": str(run.path),
        "state": "finished",
        "reason": None,
        "model": "builtin/lenet:3",
        "data": "images:/home/me/Photos",
        "epochs": 3,
        "total_epochs": 3,
        "metric": "accuracy",
        "best": 0.75,
        "bytes": sum(path.stat().st_size for path in run.path.iterdir() if path.is_file()),
        "time": first["time"],
    }
    assert datetime.fromisoformat(first["time"]).timestamp() == 1_001_000


def test_the_best_value_is_that_of_the_monitored_metric(write, tmp_path, capsys):
    write("a", options={"monitor": "loss"})
    write("b", table={"monitor": "loss", "monitor_best": "max", "monitor_percent": True})
    b, a = listed(tmp_path, capsys)
    assert (a["metric"], a["best"]) == ("loss", 1.2)
    assert (b["metric"], b["best"]) == ("loss", 1.5)
    assert main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "1.2000" in out
    assert "150.00%" in out


def test_states(write, capsys):
    assert state(write("all done"), capsys) == "finished"
    assert state(write("killed", rows=2, evaluated=False), capsys) == "interrupted"
    assert state(write("no report", evaluated=False), capsys) == "interrupted"
    assert state(write("stopped early", rows=2), capsys) == "finished"
    assert state(write("begun", rows=0, evaluated=False), capsys) == "no finished epoch"
    more = write("more epochs", total=9)
    os.utime(more.path / "config.toml", (3_000_000, 3_000_000))
    assert state(more, capsys) == "interrupted"


def test_states_do_not_depend_on_the_times_of_files(write, capsys):
    """The clock of the computer may be changed while a run trains."""
    run = write("stopped early", rows=2)
    run.write_json("evaluation.json", {"finished": True, "epochs": 2, "total_epochs": 3})
    for time in (1, 3_000_000_000):
        os.utime(run.path / "evaluation.json", (time, time))
        assert state(run, capsys) == "finished"
    # A time limit has ended it, or it was resumed for more epochs.
    for changed in ({"finished": False}, {"total_epochs": 2}, {"epochs": 1}):
        report = {"finished": True, "epochs": 2, "total_epochs": 3, **changed}
        run.write_json("evaluation.json", report)
        assert state(run, capsys) == "interrupted"
    run.write_text("evaluation.json", "{")
    assert state(run, capsys) == "interrupted"


def test_a_run_that_is_trained_now(write, capsys):
    pytest.importorskip("fcntl")
    run = write("busy", rows=1, evaluated=False)
    with run.claimed():
        assert state(run, capsys) == "training now"
    assert state(run, capsys) == "interrupted"
    begun = write("begun", rows=0, evaluated=False)
    with begun.claimed():
        code = main(["evaluate", str(begun.path)])
    assert (code, capsys.readouterr().err) == (
        1,
        f"error: the run {begun.path} has no model.keras: it is training now, and its first epoch "
        "has not ended: wait until it has\n",
    )
    # Looking at a run does not keep another process from training it.
    with run.claimed():
        pass


def test_a_model_that_was_deleted_is_not_one_of_an_interrupted_run(write, capsys):
    run = write("deleted")
    run.model.unlink()
    for command in (["evaluate"], ["verify"], ["export", "--format", "keras"]):
        assert main([*command, str(run.path)]) == 1
        assert capsys.readouterr().err == (
            f"error: the run {run.path} has no model.keras: the file was removed, or was not "
            "copied with the others: copy the whole directory again, or start a new run\n"
        )
    begun = write("be gun", rows=0, evaluated=False)
    assert main(["evaluate", str(begun.path)]) == 1
    assert f"go on with 'cnnforge train --resume '{begun.path}''" in capsys.readouterr().err


def test_a_damaged_run_is_a_row_with_its_reason(write, tmp_path, capsys):
    write("good")
    (write("config").path / "config.toml").write_text("epochs = ")
    (write("number").path / "config.toml").write_text('epochs = "x"\n[run]\nformat = 2\n')
    (write("metrics").path / "metrics.csv").write_bytes(b"epoch,val_loss\n1,abc\n")
    (write("bytes").path / "metrics.csv").write_bytes(b"\xff\xfe\x00")
    (write("model").path / "model.keras").unlink()
    (write("gone").path / "metrics.csv").unlink()
    config = write("newer").path / "config.toml"
    config.write_text(config.read_text().replace("format = 2", "format = 99"))
    rows = {Path(row["run"]).name: row for row in listed(tmp_path, capsys)}
    assert rows.pop("good")["state"] == "finished"
    newer = rows.pop("newer")
    assert newer["state"] == "newer format"
    assert "update cnnforge" in newer["reason"]
    assert {row["state"] for row in rows.values()} == {"damaged"}
    assert "config.toml" in rows["config"]["reason"]
    assert "epochs must be an integer" in rows["number"]["reason"]
    assert "metrics.csv cannot be read" in rows["metrics"]["reason"]
    assert "metrics.csv cannot be read" in rows["bytes"]["reason"]
    assert "has no model.keras" in rows["model"]["reason"]
    assert "has no metrics.csv" in rows["gone"]["reason"]
    assert main(["runs", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.count("damaged") == 6
    assert err.count("\n") == 7
    assert "model: " in err


def test_other_folders_are_ignored(write, tmp_path, capsys):
    write("run")
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").touch()
    assert len(listed(tmp_path, capsys)) == 1


def test_the_table_fits_into_80_columns(write, tmp_path, monkeypatch, capsys):
    write("resnet20-mnist5k-012", rows=2, evaluated=False)
    write("lenet-photos-001")
    monkeypatch.setattr(_render, "table_width", lambda: 80)
    assert main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for word in ("run", "epochs", "accuracy", "state", "size"):
        assert word in lines[0]
    assert "75.00%" in lines[2]
    assert "interrupted" in lines[3]


def test_a_wide_terminal_shows_all_columns(write, tmp_path, capsys):
    write("mine", data="csv:/home/me/digits.csv")
    assert main(["runs", str(tmp_path)]) == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "model", "data", "epochs", "accuracy", "state", "size", "when"]
    cells = "mine lenet:3 digits.csv 3/3 75.00% finished 1.5 MB 1970-01-12"
    assert row.split() == cells.split()


def test_a_folder_without_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 2
    assert "there is no folder runs: 'cnnforge train' makes" in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("there is no run in runs: 'cnnforge train' makes one")
    assert listed(Path("runs"), capsys) == []
    (tmp_path / "file").touch()
    assert main(["runs", "file"]) == 2
    assert "file is a file" in capsys.readouterr().err


def test_a_folder_of_pictures_leads_to_the_runs(write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert main(["runs", "photos"]) == 0
    assert "'cnnforge train --output photos' makes one" in capsys.readouterr().err
    write("runs/mine")
    assert main(["runs", "photos"]) == 0
    err = capsys.readouterr().err
    assert err == "there is no run in photos: the folder runs has runs; type: cnnforge runs\n"


def test_a_run_is_not_a_folder_of_runs(write, capsys):
    run = write("mine")
    assert main(["runs", str(run.path)]) == 2
    assert f"type: cnnforge runs {run.path.parent}" in capsys.readouterr().err
