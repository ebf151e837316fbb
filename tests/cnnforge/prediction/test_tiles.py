"""The parts of a large image, and the objects that are found in them."""

import numpy as np
import pytest

from cnnforge.errors import UsageError
from cnnforge.prediction.predictor import Predictor
from cnnforge.prediction.tiles import box_output_of, predict_in_parts, tiles_of
from cnnforge.tasks import Source
from cnnforge.tasks.classification import Classification
from cnnforge.tasks.detection import DetectedObject, Detection, Detections

TASK = Detection(["a", "b"], (64, 64))
OPTIONS = {"confidence": 0.3, "overlap": 0.5, "max_detections": 100}


@pytest.mark.parametrize("size", [(65, 64), (64, 300), (129, 128), (500, 333), (64, 65), (10, 70)])
def test_every_small_object_is_whole_in_a_part(size: tuple[int, int]) -> None:
    whole, *parts = tiles_of(size, (64, 64))
    assert whole == (0, 0, size[1], size[0])
    for x1, y1, x2, y2 in parts:
        assert (y2 - y1, x2 - x1) == (min(64, size[0]), min(64, size[1]))
        assert 0 <= x1 < x2 <= size[1]
        assert 0 <= y1 < y2 <= size[0]
    random = np.random.default_rng(0)
    for _ in range(200):
        side = min(31, *size)
        x, y = random.uniform(0, size[1] - side), random.uniform(0, size[0] - side)
        assert any(
            x1 <= x and y1 <= y and x + side <= x2 and y + side <= y2 for x1, y1, x2, y2 in parts
        )


@pytest.mark.parametrize("size", [(64, 64), (20, 64), (1, 1)])
def test_a_small_image_has_no_parts(size: tuple[int, int]) -> None:
    assert tiles_of(size, (64, 64)) == [(0, 0, size[1], size[0])]


def found(*objects: DetectedObject) -> Detections:
    return Detections("part", (64, 64), objects)


def merged(parts: list[Detections], places: list[tuple[int, int, int, int]], **options: int):
    source = Source("x", (64, 96))
    return TASK.box_output.merged(parts, places, source, {**OPTIONS, **options}).objects


def test_boxes_move_to_their_place_and_the_best_of_equal_ones_remains() -> None:
    first = found(
        DetectedObject("a", 0.6, (40, 10, 60, 30)), DetectedObject("b", 0.9, (0, 0, 9, 9))
    )
    second = found(
        DetectedObject("a", 0.8, (9, 11, 29, 31)), DetectedObject("b", 0.5, (9, 11, 29, 31))
    )
    objects = merged([first, second], [(0, 0, 64, 64), (32, 0, 96, 64)])
    assert objects == (
        DetectedObject("b", 0.9, (0, 0, 9, 9)),
        DetectedObject("a", 0.8, (41, 11, 61, 31)),
        DetectedObject("b", 0.5, (41, 11, 61, 31)),
    )
    assert (
        merged([first, second], [(0, 0, 64, 64), (32, 0, 96, 64)], max_detections=1) == objects[:1]
    )


def test_a_box_that_is_cut_off_is_left_out_except_at_the_edge_of_the_image() -> None:
    left = found(
        DetectedObject("a", 0.9, (55, 10, 64, 30)), DetectedObject("b", 0.9, (0, 40, 9, 64))
    )
    right = found(
        DetectedObject("a", 0.9, (0.5, 10, 28, 30)), DetectedObject("b", 0.8, (50, 0, 64, 9))
    )
    objects = merged([left, right], [(0, 0, 64, 64), (32, 0, 96, 64)])
    assert [each.box for each in objects] == [(0, 40, 9, 64), (82, 0, 96, 9)]


class Blobs:
    """Finds the brightest cell of 4 x 4 pixels of each image, as an object of 8 x 8 pixels."""

    image_shape = (64, 64, 1)

    def predict(self, images: np.ndarray) -> np.ndarray:
        cells = images[..., 0].reshape(-1, 16, 4, 16, 4).mean((2, 4))
        maps = np.full((len(images), 16, 16, 6), -9, np.float32)
        maps[..., 0] = np.where(cells > 200, 3, -9)
        maps[..., 2:] = 0
        return maps


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_object_is_found_at_its_place(dtype: type) -> None:
    image = np.full((150, 200, 1), 100, dtype)
    image[124:132, 148:156] = 255
    predictor = Predictor(Blobs(), TASK)
    (found,) = predict_in_parts(predictor, image, "x", OPTIONS).objects[:1]
    assert np.abs(np.subtract(found.box, (148, 124, 156, 132))).max() <= 4


def test_a_task_without_boxes_is_told() -> None:
    with pytest.raises(UsageError, match="--draw is for models that find objects"):
        box_output_of(Classification(["a", "b"]), "--draw")
