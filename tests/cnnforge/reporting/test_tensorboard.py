"""Event files, as TensorFlow reads them."""

from pathlib import Path

import pytest
import tensorflow as tf

from cnnforge.errors import RunError
from cnnforge.reporting.tensorboard import EventFile


def test_tensorflow_reads_the_file(tmp_path: Path) -> None:
    """TensorFlow checks the checksums."""
    file = EventFile(tmp_path)
    file.write(1, {"loss": 0.5, "val_loss": float("nan")})
    file.write(300, {"loss": 0.25, "learning_rate": 1e-3})
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    first, *events = tf.compat.v1.train.summary_iterator(str(path))
    assert first.file_version == "brain.Event:2"
    assert [event.step for event in events] == [1, 300]
    assert first.wall_time <= events[0].wall_time <= events[1].wall_time
    values = [{value.tag: value.simple_value for value in event.summary.value} for event in events]
    assert values[0]["loss"] == 0.5
    assert values[0]["val_loss"] != values[0]["val_loss"]
    assert values[1] == {"loss": 0.25, "learning_rate": pytest.approx(1e-3)}


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be written: .*; leave out --tensorboard"):
        EventFile(tmp_path / "gone")
