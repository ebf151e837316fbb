"""Boxes that cannot be used as they are, and boxes of rotated pictures."""

import math

import numpy as np
import pytest

from cnnforge.data.boxes.checks import (
    CLIPPED,
    NEGATIVE,
    NO_AREA,
    NOT_FINITE,
    OUTSIDE,
    check_boxes,
    turned,
)


def check(*corners, size=(30, 40)):
    sizes = np.array([size] * len(corners))
    places = [f"line {number}" for number in range(1, len(corners) + 1)]
    return check_boxes(np.array(corners, float), sizes, places)


def test_a_good_box_is_unchanged():
    boxes, usable, findings = check((0, 0, 40, 30), (1.5, 2.25, 3.125, 4))
    assert boxes.tolist() == [[0, 0, 40, 30], [1.5, 2.25, 3.125, 4]]
    assert usable.all()
    assert findings == []


def test_a_box_that_leaves_its_picture_is_clipped_and_reported():
    boxes, usable, findings = check((-3, 4, 20, 33), (30, 20, 40.5, 30))
    assert boxes.tolist() == [[0, 4, 20, 30], [30, 20, 40, 30]]
    assert usable.all()
    assert [(each.place, each.cause, each.left_out) for each in findings] == [
        ("line 1", CLIPPED, False),
        ("line 2", CLIPPED, False),
    ]
    assert findings[0].detail == "-3 4 20 33 in a picture of 40x30 pixels"
    assert findings[0].text.startswith("line 1: the box leaves the picture, and is clipped (-3 4")


def test_the_last_digits_of_a_fraction_are_not_reported():
    boxes, _, findings = check((-0.001, 0, 40.004, 30))
    assert boxes.tolist() == [[0, 0, 40, 30]]
    assert findings == []


@pytest.mark.parametrize(
    ("corners", "cause"),
    [
        ((5, 5, 5, 9), NO_AREA),
        ((5, 5, 9, 5), NO_AREA),
        ((9, 5, 5, 9), NEGATIVE),
        ((5, 9, 9, 5), NEGATIVE),
        ((50, 5, 60, 9), OUTSIDE),
        ((-9, 5, 0, 9), OUTSIDE),
        ((5, 30, 9, 40), OUTSIDE),
        ((math.nan, 5, 9, 9), NOT_FINITE),
        ((5, 5, math.inf, 9), NOT_FINITE),
        ((-math.inf, 5, math.nan, 2), NOT_FINITE),
    ],
)
def test_a_box_that_cannot_be_used(corners, cause):
    _, usable, findings = check((1, 1, 2, 2), corners)
    assert usable.tolist() == [True, False]
    assert [(each.place, each.cause, each.left_out) for each in findings] == [
        ("line 2", cause, True)
    ]


def test_no_box():
    boxes, usable, findings = check_boxes(np.zeros((0, 4)), np.zeros((0, 2), int), [])
    assert (boxes.shape, usable.shape, findings) == ((0, 4), (0,), [])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_pillow_turns_the_picture(orientation):
    from PIL import Image

    from cnnforge.data.images import _TRANSPOSES

    height, width = 6, 9
    for left, top, right, bottom in ((1, 2, 4, 3), (0, 0, 9, 6), (8, 5, 9, 6)):
        pixels = np.zeros((height, width), np.uint8)
        pixels[top:bottom, left:right] = 255
        image = Image.fromarray(pixels)
        if orientation > 1:
            image = image.transpose(_TRANSPOSES[orientation])
        rows, columns = np.nonzero(np.asarray(image))
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        box = np.array([[left, top, right, bottom]], float)
        assert turned(box, (height, width), orientation).tolist() == [expected]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_negative_size_stays_negative_when_it_is_turned(orientation):
    box = turned(np.array([[4.0, 2, 1, 3]]), (6, 9), orientation)
    sides = box[:, 2:] - box[:, :2]
    assert sorted(sides.ravel().tolist()) == [-3, 1]
