"""Pictures for a terminal: their size, boxes and captions."""

import numpy as np
import pytest
from PIL import Image

from cnnforge.cli.terminal.pictures import columns_for, fitted, legend, outlined

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize(
    ("size", "width", "lines", "expected"),
    [
        ((28, 28), 38, 30, (28, 28)),
        ((8, 8), 38, 30, (32, 32)),
        ((400, 200), 80, 30, (80, 40)),
        ((200, 400), 80, 30, (30, 60)),
        ((1000, 1), 80, 30, (80, 1)),
        ((9, 9), 1, 1, (1, 1)),
    ],
)
def test_a_picture_fits(size, width, lines, expected):
    assert fitted(Image.new("RGB", size), width, lines).size == expected


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    assert fitted(Image.new(mode, (4, 4)), 9, 9).mode == "RGB"


def test_a_box_is_a_line_of_one_pixel():
    pixels = np.asarray(outlined(Image.new("RGB", (8, 8)), [(0.25, 0.5, 0.75, 1)], [RED]))
    red = (pixels == RED).all(2)
    expected = np.zeros((8, 8), bool)
    expected[4:8, 2:6] = True
    expected[5:7, 3:5] = False
    assert np.array_equal(red, expected)


@pytest.mark.parametrize("box", [(-3, -2, 9, 9), (0.5, 0.5, 0.5, 0.5), (1, 1, 1, 1), (2, 2, 3, 3)])
def test_any_box_can_be_drawn(box):
    pixels = np.asarray(outlined(Image.new("RGB", (6, 5)), [box], [RED]))
    assert (pixels == RED).all(2).any()


def test_legend_names_the_first_boxes():
    assert legend(["a", "b"], [RED, BLUE]) == [("a  ", RED), ("b  ", BLUE)]
    assert legend(["a"] * 9, [RED] * 9, max_names=2)[2] == ("and 7 more", None)


def test_pictures_side_by_side():
    assert [columns_for(width, 9) for width in (20, 79, 80, 120, 1000)] == [1, 1, 2, 3, 9]
