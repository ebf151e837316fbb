"""Boxes and the objects of a batch."""

import numpy as np
import pytest
from detection_samples import Samples, one, samples

from cnnforge.data import compose, translations
from cnnforge.tasks.detection.boxes import areas, clipped, overlaps, transformed
from cnnforge.tasks.detection.objects import composed, moved, objects_of

SIZE = (32, 48)


def test_overlaps_are_those_of_counted_pixels() -> None:
    random = np.random.default_rng(0)
    low = random.integers(0, 15, (2, 9, 2))
    boxes = np.concatenate([low, low + random.integers(0, 9, (2, 9, 2))], axis=2).astype(float)
    masks = np.zeros((2, 9, 24, 24), bool)
    for each, box in zip(masks.reshape(-1, 24, 24), boxes.reshape(-1, 4).astype(int), strict=True):
        each[box[1] : box[3], box[0] : box[2]] = True
    a, b = masks[0][:, None], masks[1][None]
    union = (a | b).sum((2, 3))
    expected = np.where(union > 0, (a & b).sum((2, 3)) / np.maximum(union, 1), 0)
    np.testing.assert_allclose(overlaps(boxes[0], boxes[1]), expected)
    np.testing.assert_array_equal(areas(boxes), masks.sum((2, 3)))
    empty = np.array([[3.0, 3, 3, 3]])
    assert overlaps(empty, empty) == 0
    assert overlaps(np.zeros((0, 4)), empty).shape == (0, 1)
    assert areas(np.array([5.0, 5, 2, 2])) == 0


def test_clipping_keeps_what_is_inside() -> None:
    region = np.array([2.0, 3, 10, 8])
    boxes = np.array([[0.0, 0, 5, 5], [20, 20, 30, 30], [3, 4, 5, 6], [-5, -5, 40, 40]])
    expected = [[2, 3, 5, 5], [10, 8, 10, 8], [3, 4, 5, 6], [2, 3, 10, 8]]
    np.testing.assert_array_equal(clipped(boxes, region), expected)


def test_a_transform_moves_the_corners() -> None:
    boxes = np.array([[[4.0, 6, 10, 8]]], np.float32)
    quarter = np.float32([[[0, 1, 0], [-1, 0, 48]]])
    # A quarter turn to the left in an image of 48 columns.
    np.testing.assert_array_equal(transformed(boxes, quarter)[0, 0], [6, 38, 8, 44])
    eighth = np.float32([[[0.5**0.5, 0.5**0.5, 0], [-(0.5**0.5), 0.5**0.5, 0]]])
    side = (6 + 2) * 0.5**0.5
    found = transformed(boxes, eighth)[0, 0]
    np.testing.assert_allclose(found[2:] - found[:2], side, rtol=1e-6)


def test_objects_are_letterboxed_and_padded() -> None:
    boxes = [np.array([[0.0, 0, 100, 50], [10, 10, 20, 30]]), np.zeros((0, 4))]
    labels = [np.array([2, 0], np.int32), np.zeros(0, np.int32)]
    crowd = [np.array([False, True]), np.zeros(0, bool)]
    given = Samples(boxes, labels, crowd, np.array([[50, 100], [7, 7]]))
    found = objects_of(given, np.array([1, 0, 1]), (32, 48))
    assert found["labels"].tolist() == [[-1, -1], [2, 0], [-1, -1]]
    assert found["crowd"].tolist() == [[False, False], [False, True], [False, False]]
    # 100 x 50 becomes 48 x 24, with 4 rows above.
    np.testing.assert_allclose(found["boxes"][1], [[0, 4, 48, 28], [4.8, 8.8, 9.6, 18.4]])
    assert found["boxes"].dtype == np.float32
    assert objects_of(given, np.array([1]), (32, 48))["labels"].tolist() == [[-1]]


@pytest.mark.parametrize(
    ("shift", "kept"),
    [
        ((0, 0), [4, 6, 14, 16]),
        ((-7, 0), [0, 6, 7, 16]),
        ((-11.4, 0), [0, 6, 2.6, 16]),
        # Less than a quarter is visible.
        ((-11.6, 0), None),
        ((-60, 0), None),
        ((0, 23.4), [4, 29.4, 14, 32]),
        ((0, 23.6), None),
        ((-9, -11), [0, 0, 5, 5]),
        # A quarter is visible of each side.
        ((-11, -13), None),
    ],
)
def test_an_object_is_clipped_or_dropped(
    shift: tuple[float, float], kept: list[float] | None
) -> None:
    given = objects_of(one((4, 6, 14, 16)), np.arange(1), SIZE)
    found = moved(given, translations(np.array([shift[0]]), np.array([shift[1]])), SIZE)
    if kept is None:
        assert found["labels"].tolist() == [[-1]]
    else:
        assert found["labels"].tolist() == [[0]]
        np.testing.assert_allclose(found["boxes"][0, 0], kept, rtol=1e-6)


def test_a_box_below_one_pixel_is_dropped() -> None:
    given = objects_of(one((4, 6, 5.9, 16), (4, 6, 6.1, 16)), np.arange(1), SIZE)
    half = np.float32([[[0.5, 0, 0], [0, 0.5, 0]]])
    assert moved(given, half, SIZE)["labels"].tolist() == [[-1, 0]]


def test_the_visible_share_is_that_of_the_whole_object() -> None:
    """Half of a half is a quarter; what is cut off does not come back."""
    given = objects_of(one((0, 0, 20, 10)), np.arange(1), SIZE)
    left = translations(np.array([-10.0]), np.zeros(1))
    once = moved(given, left, SIZE)
    assert once["visible"].tolist() == [[0.5]]
    assert moved(once, translations(np.array([-4.0]), np.zeros(1)), SIZE)["labels"] == 0
    assert moved(once, translations(np.array([-6.0]), np.zeros(1)), SIZE)["labels"] == -1


def test_one_transform_of_several_is_exact() -> None:
    given = objects_of(samples(20), np.arange(20), SIZE)
    random = np.random.default_rng(3)
    first = translations(random.uniform(-5, 5, 20), random.uniform(-5, 5, 20))
    second = np.tile(np.float32([[-1, 0, 48], [0, 1, 0]]), (20, 1, 1))
    mirrored = moved(given, second, SIZE)
    back = moved(mirrored, second, SIZE)
    np.testing.assert_allclose(back["boxes"], given["boxes"], atol=1e-5)
    together = moved(given, compose(first, second), SIZE)
    assert (together["labels"] >= 0).sum() >= 0.5 * (given["labels"] >= 0).sum()


def test_parts_are_cut_to_their_regions_and_joined() -> None:
    parts = [
        objects_of(one((0, 0, 10, 10), (30, 0, 40, 10), labels=[0, 1]), np.arange(1), SIZE),
        objects_of(one((20, 4, 34, 9), labels=2), np.arange(1), SIZE),
        objects_of(one(), np.arange(1), SIZE),
    ]
    regions = np.float32([[[0, 0, 24, 32], [24, 0, 48, 32], [0, 0, 0, 0]]])
    found = composed(parts, regions)
    assert found["labels"].tolist() == [[0, 2]]
    np.testing.assert_array_equal(found["boxes"][0], [[0, 0, 10, 10], [24, 4, 34, 9]])
    nothing = composed(parts, np.zeros((1, 3, 4), np.float32))
    assert nothing["labels"].tolist() == [[-1]]
