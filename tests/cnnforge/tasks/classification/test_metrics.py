"""Accuracy, loss, and the numbers per class."""

import json

import numpy as np
import pytest

from cnnforge.tasks.classification import evaluate

CLASSES = ("a", "b", "c")


def one_hot(predicted: list[int]) -> np.ndarray:
    return np.eye(len(CLASSES), dtype=np.float32)[predicted]


def test_the_numbers_by_hand() -> None:
    result = evaluate(one_hot([0, 0, 1, 1, 0]), np.array([0, 0, 0, 1, 1]), CLASSES)
    assert result.confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert result.accuracy == 3 / 5
    assert result.precision.tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert result.recall.tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert result.f1.tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert result.support.tolist() == [3, 2, 0]


def test_what_can_be_printed_is_json() -> None:
    found = json.loads(json.dumps(evaluate(one_hot([0, 1]), np.array([0, 1]), CLASSES).as_dict()))
    assert found["accuracy"] == 1.0
    assert found["samples"] == 2
    assert found["classes"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_the_loss_is_that_of_keras() -> None:
    keras = pytest.importorskip("keras")
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(3), 50).astype(np.float32)
    probabilities[0] = [0, 1, 0]
    labels = np.r_[0, generator.integers(0, 3, 49)]
    expected = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
    found = evaluate(probabilities, labels, CLASSES).loss
    assert found == pytest.approx(float(np.mean(expected)), rel=1e-6)


def test_the_loss_of_a_perfect_prediction_has_no_sign() -> None:
    loss = evaluate(one_hot([0, 1]), np.array([0, 1]), CLASSES).loss
    assert str(loss) == "0.0"


def test_not_a_number_stays_one() -> None:
    assert np.isnan(evaluate(np.full((1, 3), np.nan), np.array([0]), CLASSES).loss)


def test_what_does_not_fit_is_refused() -> None:
    for probabilities, labels in (
        (one_hot([0]), [0, 1]),
        (one_hot([0])[:, :2], [0]),
        (one_hot([0]), [3]),
        (one_hot([0]), [-1]),
        (one_hot([]), []),
    ):
        with pytest.raises(ValueError, match=r"expected probabilities|labels must be|at least one"):
            evaluate(probabilities, np.array(labels, int), CLASSES)
