"""The course of a value as block characters."""

import math

import pytest

from cnnforge.cli.terminal.sparkline import Sparkline


def drawn(values, width=8, batches=1):
    line = Sparkline(width)
    for value in values:
        line.add(value, batches)
    return line.text()


def test_lowest_and_highest_block():
    assert drawn([8, 4, 1]) == "█▄▁"
    assert drawn(range(8)) == "▁▂▃▄▅▆▇█"


@pytest.mark.parametrize("values", [[], [3]])
def test_one_value_is_no_course(values):
    assert drawn(values) == ""


def test_equal_values_are_low():
    assert drawn([2, 2, 2]) == "▁▁▁"


def test_two_characters_become_one_if_there_are_too_many():
    assert drawn([1, 1, 2, 2, 3, 3, 4, 4]) == "▁▁▃▃▆▆██"
    assert drawn([1, 1, 2, 2, 3, 3, 4, 4, 4]) == "▁▃▆██"
    assert len(drawn(range(1000))) <= 8
    # Two times: each character stands for four values.
    assert drawn(range(16), width=4) == "▁▃▆█"
    assert drawn([0] * 12 + [1] * 4, width=4) == "▁▁▁█"


def test_a_character_is_the_same_number_of_batches():
    line = Sparkline(8)
    line.add(1.0, 3)
    line.add(2.0, 1)
    assert line.text() == "▁▁▁█"


def test_values_that_are_not_finite_are_left_out():
    assert drawn([math.nan, 1, math.inf, 2]) == "▁█"
