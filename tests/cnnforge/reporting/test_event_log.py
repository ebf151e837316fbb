"""`--log jsonl:FILE`: events of training as lines of JSON."""

import json
import math
from pathlib import Path

import pytest

from cnnforge.callbacks import EpochMetrics
from cnnforge.configuration import TrainingOptions
from cnnforge.errors import RunError, UsageError
from cnnforge.reporting.event_log import EventLog
from cnnforge.training.events import BatchesDone, EpochBegun, EpochEnded, Interrupted


def test_a_line_for_each_event(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("before\n")
    log = EventLog(path, Path("runs/a"))
    metrics = EpochMetrics(1, {"loss": math.nan, "val_accuracy": 0.5}, 0.1, 2.0, 100.0)
    log(EpochBegun(1, 3, 0, 10))
    log(BatchesDone(1, 10, 10, {"loss": math.inf}, 99.5))
    log(EpochEnded(metrics, 3, best=True))
    log(Interrupted(2, 0))
    before, *lines = path.read_text(encoding="utf-8").splitlines()
    assert before == "before"
    events = [json.loads(line) for line in lines]
    names = ["epoch_begun", "batches_done", "epoch_ended", "interrupted"]
    assert [event["event"] for event in events] == names
    assert {event["run"] for event in events} == {"runs/a"}
    assert events[1]["values"] == {"loss": None}
    assert events[2]["metrics"]["values"] == {"loss": None, "val_accuracy": 0.5}
    assert events[2]["best"] is True


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.mkdir()
    with pytest.raises(RunError, match=r"log.jsonl could not be written: Is a directory; the run"):
        EventLog(path, Path("runs/a"))(Interrupted(1, 1))


@pytest.mark.parametrize("log", ["log.jsonl", "xml:a", "jsonl:", "jsonl:no/folder/a", "jsonl:."])
def test_wrong_values(log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"log is "):
        TrainingOptions(log=log)
    assert TrainingOptions(log="jsonl:a.jsonl").log_file == Path("a.jsonl")
