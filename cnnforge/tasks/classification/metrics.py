"""How good a classification is, overall and per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What Keras clips probabilities to before it takes their logarithm.
_SMALLEST = 1e-7


@dataclass(frozen=True)
class Evaluation:
    """The quality of a classification of N samples into C classes.

    Where a ratio would divide by zero (a class that was never predicted has no precision, one
    that does not occur no recall) it is 0.

    Attributes:
        classes: The C names.
        loss: Mean cross-entropy in nats.
        accuracy: 0 to 1.
        confusion: (C, C) int64; row: the true class, column: the predicted one.
        precision: (C,) float64: of those predicted as this class, the share that belongs to it.
        recall: (C,) float64: of those of this class, the share that was predicted as it.
        f1: (C,) float64: the harmonic mean of precision and recall.
    """

    classes: tuple[str, ...]
    loss: float
    accuracy: float
    confusion: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def support(self) -> np.ndarray:
        """How many samples each class has: (C,) int64."""
        return self.confusion.sum(axis=1)

    def as_dict(self) -> dict[str, object]:
        """Return the same as plain values, ready for JSON."""
        return {
            "samples": int(self.confusion.sum()),
            "loss": self.loss,
            "accuracy": self.accuracy,
            "classes": {
                name: {
                    "precision": float(self.precision[index]),
                    "recall": float(self.recall[index]),
                    "f1": float(self.f1[index]),
                    "support": int(self.support[index]),
                }
                for index, name in enumerate(self.classes)
            },
            "confusion_matrix": self.confusion.tolist(),
        }


def evaluate(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Evaluation:
    """Compare predicted probabilities with the true classes.

    Args:
        probabilities: (N, C) float, N at least 1.
        labels: (N,) int, 0 .. C-1.
        classes: The C names.

    Returns:
        The evaluation.

    Raises:
        ValueError: The shapes or the labels do not fit.
    """
    count = len(classes)
    labels = np.asarray(labels)
    if probabilities.shape != (len(labels), count) or not len(labels):
        raise ValueError(
            f"expected probabilities of shape ({len(labels)}, {count}) for {len(labels)} labels "
            f"and {count} classes, at least one sample, got {probabilities.shape}"
        )
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(f"labels must be 0 to {count - 1}, got {labels.min()} to {labels.max()}")
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(labels * count + predicted, minlength=count * count)
    confusion = confusion.reshape(count, count).astype(np.int64)
    right = np.diagonal(confusion).astype(np.float64)
    precision = _ratio(right, confusion.sum(axis=0))
    recall = _ratio(right, confusion.sum(axis=1))
    return Evaluation(
        classes=tuple(classes),
        loss=cross_entropy(probabilities, labels),
        accuracy=float(right.sum() / len(labels)),
        confusion=confusion,
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
    )


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log p(true class).

    Args:
        probabilities: (N, C) float.
        labels: (N,) int.

    Returns:
        Nats per sample; probabilities below 1e-7 count as 1e-7, as Keras has it.
    """
    right = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # maximum, not clip: NaN must stay NaN.
    return float(-np.log(np.maximum(right, _SMALLEST)).mean())


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    zeros = np.zeros_like(numerator, np.float64)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)
