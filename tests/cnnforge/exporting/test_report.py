"""Comparisons of an exported model with Keras."""

import numpy as np
import pytest

from cnnforge.errors import CnnforgeError
from cnnforge.exporting.exporter import _spread
from cnnforge.exporting.report import check_comparison, compare
from cnnforge.tasks.export_form import ClassExportForm

FORM = ClassExportForm(["a", "b"])


def outputs(first: list[float]) -> dict[str, np.ndarray]:
    column = np.array(first, np.float32)
    return {"probabilities": np.stack([column, 1 - column], 1)}


def test_almost_equal_answers_may_differ_for_few_images() -> None:
    old = outputs([0.9] * 199 + [0.500001])
    names = [f"{number}.png" for number in range(200)]
    found = compare(FORM, old, outputs([0.9] * 199 + [0.499999]), names, "some")
    assert (found.images, found.equal) == (200, 199)
    assert [tuple(flip) for flip in found.flips] == [("199.png", "a", "b")]
    check_comparison(found, old, 1e-4)
    with pytest.raises(CnnforgeError, match=r"compared on some: probabilities differ by 2e-06"):
        check_comparison(found, old, 1e-6)


def test_many_other_answers_are_an_error() -> None:
    old = outputs([0.500001] * 20)
    names = list("abcdefghijklmnopqrst")
    found = compare(FORM, old, outputs([0.499999] * 3 + [0.500001] * 17), names, "some")
    with pytest.raises(CnnforgeError, match="3 answers are others, the first for a: b "):
        check_comparison(found, old, 1e-4)


def test_an_output_of_another_shape_is_an_error() -> None:
    with pytest.raises(CnnforgeError, match=r"probabilities is of the shape \(2, 2\)"):
        compare(FORM, outputs([0.1] * 3), outputs([0.1] * 2), ["a"] * 3, "some")
    with pytest.raises(CnnforgeError, match="probabilities is missing"):
        compare(FORM, outputs([0.1]), {"other": np.zeros((1, 2))}, ["a"], "some")


def test_images_are_spread_over_sorted_data() -> None:
    assert _spread(10, 4).tolist() == [0, 3, 6, 9]
    assert _spread(3, 10).tolist() == [0, 1, 2]
