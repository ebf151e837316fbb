"""Boxes and labels in pictures."""

import numpy as np
import pytest
from PIL import Image

from cnnforge.tasks.detection import DetectedObject, Detections
from cnnforge.tasks.detection.drawing import BoxPainter
from cnnforge.tasks.detection.output import DetectionOutput

CLASSES = ["cat & <b>", "собака", "数字", "قط", "", "a name that is much longer than all others"]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_box_is_drawn_at_its_place(mode: str) -> None:
    image = Image.new(mode, (600, 500), "white")
    drawn = BoxPainter(CLASSES).draw(image, np.array([[100, 200, 300, 400.0]]), np.array([0]))
    assert (drawn.mode, drawn.size) == ("RGB", (600, 500))
    changed = np.asarray(drawn).min(2) < 250
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert (rows[-1], columns[0], columns[-1]) == (400, 99, 300)
    # The label is above the box.
    assert 170 < rows[0] < 195
    assert not changed[210:390, 110:290].any()


@pytest.mark.parametrize("background", [0, 255])
def test_labels_of_all_classes_can_be_read_on_any_background(background: int) -> None:
    image = Image.new("L", (900, 700), background)
    boxes = np.array([[40, 40 + 100 * n, 400, 110 + 100 * n] for n in range(6)], float)
    drawn = np.asarray(BoxPainter(CLASSES).draw(image, boxes, np.arange(6), np.full(6, 0.5)))
    for x1, y1, _, _ in boxes.astype(int):
        label = drawn[y1 - 19 : y1 - 3, x1 : x1 + 40].reshape(-1, 3).astype(int)
        ground = np.unique(label, axis=0, return_counts=True)
        color = ground[0][ground[1].argmax()]
        # The letters are black or white, whichever differs more from the color of the label.
        assert np.abs(label - color).max() > 100
        assert np.abs(color - background).max() > 30


def test_a_small_picture_is_enlarged() -> None:
    image = Image.fromarray(np.arange(30 * 20, dtype=np.uint8).reshape(30, 20))
    drawn = BoxPainter(["a"]).draw(image, np.empty((0, 4)), np.empty(0, int))
    assert drawn.size == (20 * 16, 30 * 16)
    np.testing.assert_array_equal(np.asarray(drawn)[8::16, 8::16, 0], np.asarray(image))


def test_boxes_at_and_beyond_the_edges_are_drawn() -> None:
    boxes = np.array([[-5, -5, 3, 3], [590, 490, 640, 520], [10, 10, 10, 10], [0, 0, 600, 500.0]])
    drawn = BoxPainter(["a"]).draw(Image.new("L", (600, 500)), boxes, np.zeros(4, int))
    assert np.asarray(drawn).any()


def test_detections_become_results_of_coco_and_lines_of_yolo() -> None:
    row = Detections("x.png", (100, 200), (DetectedObject("b", 0.75, (10.0, 20.0, 50.0, 80.0)),))
    output = DetectionOutput(["a", "b"])
    assert output.coco(row, 3, {"a": 4, "b": 9})[0]["category_id"] == 9
    # Classes that the data do not have get other ids.
    assert output.coco(row, 3, {"a": 4})[0]["category_id"] == 6
    assert output.coco(row, "x7", {}) == [
        {
            "image_id": "x7",
            "category_id": 2,
            "bbox": [10, 20, 40, 60],
            "score": 0.75,
            "file_name": "x.png",
            "category_name": "b",
        }
    ]
    assert output.yolo(row) == "1 0.150000 0.500000 0.200000 0.600000 0.750000\n"
    assert output.yolo_names() == "a\nb\n"
    assert output.draw(Image.new("L", (200, 100)), row).size == (600, 300)
