"""From a wrong array to the mistake that made it."""

import numpy as np
import pytest

from cnnforge.testing.diagnosis import diagnose

RIGHT = np.random.default_rng(0).standard_normal((2, 6, 5, 5))


def edge(axis, index):
    wrong = RIGHT.copy()
    np.moveaxis(wrong, axis, 0)[index] += 1
    return wrong


def shifted(axis, step):
    """Zeros come in where something went out."""
    wrong = np.zeros_like(RIGHT)
    moved, right = np.moveaxis(wrong, axis, 0), np.moveaxis(RIGHT, axis, 0)
    if step > 0:
        moved[step:] = right[:-step]
    else:
        moved[:step] = right[-step:]
    return wrong


def few():
    wrong = RIGHT.copy()
    wrong[0, 1, 2, 3] = wrong[1, 4, 0, 0] = wrong[1, 3, 1, 1] = 7
    return wrong


WRONG = {
    "has the opposite sign": -RIGHT,
    "is zero everywhere": 0 * RIGHT,
    "is 0.5 times what it should be": RIGHT / 2,
    "is 0.25 more than it should be, everywhere": RIGHT + 0.25,
    "is transposed (axes 2 and 3)": np.swapaxes(RIGHT, 2, 3),
    "is reversed along axis 1": RIGHT[:, ::-1],
    "is reversed along axes 1 and 2": RIGHT[:, ::-1, ::-1],
    "is shifted by one along axis 1, towards higher indices": shifted(1, 1),
    "is shifted by one along axis 2, towards lower indices": shifted(2, -1),
    "is wrong only at the edge, index 5, along axis 1": edge(1, 5),
    "is wrong only at both edges along axis 2": edge(2, [0, 4]),
    "is wrong only at index 1 along axis 0": edge(0, 1),
    "is wrong only at index 2 along axis 3": edge(3, 2),
    "is wrong in 3 of 300 elements, first at (0, 1, 2, 3)": few(),
    "has the shape (6, 2, 5, 5) instead of (2, 6, 5, 5): transposed": np.swapaxes(RIGHT, 0, 1),
    "has the shape (2, 6, 5, 4) instead of (2, 6, 5, 5)": RIGHT[..., :4],
    "": np.random.default_rng(1).standard_normal(RIGHT.shape),
}


@pytest.mark.parametrize("phrase", WRONG)
def test_what_is_wrong(phrase):
    assert diagnose(WRONG[phrase], RIGHT) == phrase


def test_rounding_does_not_hide_it():
    noise = 1 + 1e-5 * np.random.default_rng(2).standard_normal(RIGHT.shape)
    assert diagnose(-RIGHT * noise, RIGHT) == "has the opposite sign"


def test_where_nothing_can_be_said():
    assert diagnose(RIGHT, RIGHT) == ""
    assert diagnose(np.full_like(RIGHT, np.nan), RIGHT) == ""
    assert diagnose(np.zeros((0, 3)), np.zeros((0, 3))) == ""
    assert diagnose(RIGHT, 0 * RIGHT) == "is not zero, as it should be everywhere"
    assert diagnose(np.array(2.0), np.array(1.0)) == "is 2 times what it should be"
