"""The rows of a prediction table."""

import csv
import io

import numpy as np
import pytest
from detection_samples import one

from cnnforge.data import Dataset
from cnnforge.tasks import Source
from cnnforge.tasks.detection import DetectedObject, Detection, Detections

TASK = Detection(["cat", "a <b>, c"], (32, 48), confidence=0.5)
ROWS = [
    Detections(
        "a.png",
        (100, 200),
        (
            DetectedObject("cat", 0.91234567, (1.0, 2.5, 30.123456, 40.0)),
            DetectedObject("a <b>, c", 0.5, (0.0, 0.0, 200.0, 100.0)),
        ),
    ),
    Detections("b.png", (10, 10), (), (DetectedObject("cat", 1.0, (0.0, 0.0, 5.0, 5.0)),)),
    TASK.unread_row("c.png", "not an image"),
]


def test_csv_has_a_line_for_each_object_and_each_empty_image() -> None:
    lines = list(csv.reader(io.StringIO(TASK.csv_table(ROWS))))
    assert lines == [
        ["file", "label", "confidence", "x1", "y1", "x2", "y2", "error"],
        ["a.png", "cat", "0.912346", "1.00", "2.50", "30.12", "40.00", ""],
        ["a.png", "a <b>, c", "0.500000", "0.00", "0.00", "200.00", "100.00", ""],
        ["b.png", "", "", "", "", "", "", ""],
        ["c.png", "", "", "", "", "", "", "not an image"],
    ]
    assert TASK.csv_table(ROWS[1:2]).splitlines() == [
        "file,label,confidence,x1,y1,x2,y2",
        "b.png,,,,,,",
    ]


def test_rows_as_plain_values() -> None:
    first, second, third = (row.as_dict() for row in ROWS)
    assert first["objects"][0] == {
        "label": "cat",
        "confidence": 0.91234567,
        "box": [1.0, 2.5, 30.123456, 40.0],
    }
    assert (first["height"], first["width"], first["error"]) == (100, 200, None)
    assert second["true_objects"] == [{"label": "cat", "box": [0.0, 0.0, 5.0, 5.0]}]
    assert third == {
        "file": "c.png",
        "height": None,
        "width": None,
        "objects": [],
        "true_objects": None,
        "error": "not an image",
    }


def test_rows_in_a_terminal() -> None:
    assert ROWS[0].shown() == {"objects": "2", "classes": "1 a <b>, c, 1 cat"}
    assert ROWS[1].shown() == {"objects": "0", "classes": "", "true objects": "1"}
    assert ROWS[2].shown() == ROWS[2].cells() == {}
    assert ROWS[0].cells() == {"objects": "2"}
    assert TASK.summary(ROWS) == "2 objects in 2 images, 1 of them without objects"
    assert TASK.summary(ROWS[:1]) == "2 objects in 1 image"
    assert TASK.summary(ROWS[2:]) == ""


@pytest.mark.parametrize("size", [(32, 48), (64, 96), (100, 100)])
def test_boxes_are_in_pixels_of_the_original(size: tuple[int, int]) -> None:
    output = np.full((1, 8, 12, 6), -9, np.float32)
    output[0, 3, 5, 1] = 2
    output[0, 3, 5, 2:] = np.log(2)
    options = {"confidence": 0.5, "overlap": 0.5, "max_detections": 100}
    (row,) = TASK.rows(output, [Source("x", size)], None, options)
    (found,) = row.objects
    scale = min(32 / size[0], 48 / size[1])
    border = np.array([48 - size[1] * scale, 32 - size[0] * scale] * 2) / 2
    box = np.array([3.5, 1.5, 7.5, 5.5]) * 4
    np.testing.assert_allclose(found.box, (box - border) / scale, rtol=1e-6)
    assert found.label == "a <b>, c"
    assert row.size == size
    assert all(type(value) is float for value in (*found.box, found.confidence))


def test_true_objects_have_their_names() -> None:
    given = one((1, 2, 3, 4), (5, 6, 9, 9), labels=[1, 0])
    dataset = Dataset("d", ("x", "y"), given, given, "", task="detection")
    truth = TASK.truth(dataset, given, np.arange(1))
    assert truth is not None
    (found,) = truth
    assert [each.label for each in found] == ["y", "x"]
    assert found[0].box == (1.0, 2.0, 3.0, 4.0)
    unlabelled = Dataset("d", (), given, given, "", labelled=False)
    assert TASK.truth(unlabelled, given, np.arange(1)) is None
