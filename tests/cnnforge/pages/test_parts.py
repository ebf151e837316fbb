"""Charts and tables of pages."""

import math
import re

import pytest

from cnnforge.pages.parts import Section, Series, chart, facts, table


def numbers(svg: str, anchor: str) -> list[str]:
    return re.findall(rf'text-anchor="{anchor}">([^<]*)</text>', svg)


def test_a_chart_of_epochs_has_whole_numbers() -> None:
    points = [(float(epoch), 1 / epoch) for epoch in range(1, 31)]
    svg = chart("loss", [Series("training", points)], x_title="epoch", mark=12.0)
    *epochs, title = numbers(svg, "middle")
    assert epochs == ["1", "5", "9", "13", "17", "21", "25", "29"]
    assert title == "epoch"
    assert numbers(svg, "end") == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert svg.count("<polyline") == 1


@pytest.mark.parametrize(
    ("value", "marks"), [(0.5, "0"), (-2.0, "-4"), (0.0, "-1"), (1e-9, "0"), (3e7, "0")]
)
def test_a_single_value_is_a_dot(value: float, marks: str) -> None:
    svg = chart("loss", [Series("training", [(1.0, value)])], x_title="epoch")
    assert svg.count("<circle") == 1
    assert numbers(svg, "middle") == ["1", "epoch"]
    assert numbers(svg, "end")[0] == marks


def test_values_that_are_not_finite_make_gaps() -> None:
    points = [(1.0, 1.0), (2.0, 2.0), (3.0, math.nan), (4.0, math.inf), (5.0, 3.0), (6.0, 2.0)]
    svg = chart("loss", [Series("training", points)], x_title="epoch")
    assert svg.count("<polyline") == 2
    assert "nan" not in svg
    assert "inf" not in svg
    assert "no values" in chart("loss", [Series("a", [(1.0, math.nan)])], x_title="epoch")


def test_texts_are_escaped() -> None:
    odd = '<b>&"'
    made = [
        Section(odd, odd, "").render(),
        table([odd, odd], [[odd, odd]], caption=odd),
        facts([(odd, odd)]),
        chart(odd, [Series(odd, [(0.0, 1.0)])], x_title=odd),
    ]
    assert not [text for text in made if "<b>" in text]
