"""The memory of predictions does not grow with the number of files."""

import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnforge.prediction.inputs import find_inputs
from cnnforge.tasks import Task
from cnnforge.tasks.classification import Classification, Prediction
from cnnforge.tasks.detection import Detection
from cnnforge.tasks.detection.rows import DetectedObject, Detections
from cnnforge.utils.names import natural_key
from cnnforge.utils.packed import Packed

_NAMES = st.text(st.sampled_from("ab09-./ é"), max_size=12)


def _key_in_parts(text):
    parts = re.split(r"([0-9]+)", text)
    return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)]


@given(st.lists(_NAMES, max_size=20))
def test_numbers_in_names_are_sorted_by_value(names):
    assert sorted(names, key=natural_key) == sorted(names, key=_key_in_parts)


def _table_of(task, rows, path):
    """Write the table; return its length, and the max memory that it took."""
    packed = Packed(rows)
    tracemalloc.start()
    with path.open("w") as file:
        length = sum(map(file.write, task.csv_parts(packed)))
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return length, highest


@pytest.mark.parametrize("detection", [False, True])
def test_a_table_is_written_in_little_memory(tmp_path, detection):
    path = tmp_path / "table.csv"
    if detection:
        task = Detection(["a", "b"], (64, 64))
        one = (DetectedObject("a", 0.5, (1.0, 2.0, 3.0, 4.0)),)
        rows = [Detections(f"{number}.png", (64, 64), one) for number in range(10_000)]
    else:
        task = Classification(("a", "b"))
        rows = [Prediction(f"{number}.png", (("a", 0.75), ("b", 0.25))) for number in range(10_000)]
    length, highest = _table_of(task, rows, path)
    _, of_a_fifth = _table_of(task, rows[:2000], tmp_path / "short.csv")
    assert path.read_text() == task.csv_table(rows)
    # The text of the other 8,000 rows would be 200,000 bytes or more.
    assert length > 250_000
    assert highest - of_a_fifth < 100_000


def test_a_task_that_has_a_table_of_its_own(tmp_path):
    class Own(Task):
        def csv_table(self, rows):
            return f"{len(rows)} rows\n"

    assert list(Own.csv_parts(object.__new__(Own), [1, 2])) == ["2 rows\n"]


def test_paths_of_a_folder_take_little_memory(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number}.png").touch()
    (inputs,) = find_inputs([str(folder)], image_shape=(8, 8, 1), datasets=None, trained_on=None)
    assert len(inputs) == 3000
    assert inputs.paths[2] == str(folder / "2.png")
    assert list(inputs.paths)[10:12] == [str(folder / "10.png"), str(folder / "11.png")]
    tracemalloc.start()
    kept = find_inputs([str(folder)], image_shape=(8, 8, 1), datasets=None, trained_on=None)
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept[0]) == 3000
    # A path takes 100 bytes and more if it is not packed; the last 440 are not.
    assert now < 3000 * 40
    assert np.all([path.endswith(".png") for path in kept[0].paths])
