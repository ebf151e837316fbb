"""Compute the metrics of a classification, for all samples together and for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnforge.tasks.metric import LOSS, Evaluation, Metric

# Keras clips probabilities to this value before it takes their logarithm.
_MIN_PROBABILITY = 1e-7


ACCURACY = Metric("accuracy", "accuracy", "acc", "max", percent=True, sum="correct")
BALANCED_ACCURACY = Metric("balanced_accuracy", "balanced accuracy", "bal acc", percent=True)
MACRO_F1 = Metric("macro_f1", "macro F1", "F1", percent=True)


@dataclass(frozen=True, kw_only=True)
class ClassEvaluation(Evaluation):
    """The metrics of a classification of N samples into C classes.

    The precision of a class that was never predicted is 0. The recall of a class without samples is
    also 0. Balanced accuracy is the mean recall, and macro F1 the mean F1, of the classes that have
    samples.

    Attributes:
        classes: The C class names.
        confusion: (C, C) int64 counts; rows are true classes, columns predicted classes.
        precision: (C,) float64, fraction of correct predictions among the predictions of a class.
        recall: (C,) float64, fraction of correct predictions among the samples of a class.
        f1: (C,) float64, harmonic mean of precision and recall.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats; probabilities below 1e-7 count as 1e-7, as in Keras."""
        return self.metrics[LOSS.name]

    @property
    def accuracy(self) -> float:
        """Fraction of the samples that were classified correctly, 0 to 1."""
        return self.metrics[ACCURACY.name]

    @property
    def support(self) -> np.ndarray:
        """Number of samples of each true class: (C,) int64."""
        return self.confusion.sum(axis=1)

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as plain values, ready for JSON."""
        return {
            **super().as_dict(),
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


class ClassEvaluator:
    """Compares probabilities with the true classes, batch by batch.

    Args:
        labels: (N,) int, 0 .. C-1, in the order in which the outputs are added.
        classes: The C class names.

    Raises:
        ValueError: A label is out of range, or `labels` is empty.
    """

    def __init__(self, labels: np.ndarray, classes: Sequence[str]) -> None:
        labels, count = np.asarray(labels), len(classes)
        if not len(labels):
            raise ValueError("expected at least one sample, got no labels")
        if labels.min() < 0 or labels.max() >= count:
            raise ValueError(
                f"labels must be 0 to {count - 1}, got {labels.min()} to {labels.max()}"
            )
        self._labels, self._classes = labels, tuple(classes)
        # Keep one value per sample, and average at the end. A mean of the means of batches would
        # depend on the batch sizes.
        self._predicted = np.empty(len(labels), np.int64)
        self._right = np.empty(len(labels), np.float64)
        self._done = 0

    def add(self, outputs: np.ndarray) -> None:
        """Add the probabilities of the next samples: (n, C) float.

        Raises:
            ValueError: The shape is wrong, or there are more samples than labels.
        """
        count, left = len(self._classes), len(self._labels) - self._done
        if outputs.ndim != 2 or outputs.shape[1] != count or len(outputs) > left:
            raise ValueError(
                f"expected probabilities of shape (n, {count}), n at most {left}, got "
                f"{outputs.shape}"
            )
        part = slice(self._done, self._done + len(outputs))
        self._predicted[part] = outputs.argmax(axis=1)
        self._right[part] = outputs[np.arange(len(outputs)), self._labels[part]]
        self._done = part.stop

    def result(self) -> ClassEvaluation:
        """Return the evaluation.

        Raises:
            ValueError: There are fewer outputs than labels.
        """
        labels, count = self._labels, len(self._classes)
        if self._done < len(labels):
            raise ValueError(
                f"expected probabilities of {len(labels)} samples, got those of {self._done}"
            )
        confusion = np.bincount(labels * count + self._predicted, minlength=count * count)
        confusion = confusion.reshape(count, count).astype(np.int64)
        right = np.diagonal(confusion).astype(np.float64)
        precision = _ratio(right, confusion.sum(axis=0))
        recall = _ratio(right, confusion.sum(axis=1))
        f1 = _ratio(2 * precision * recall, precision + recall)
        present = confusion.sum(axis=1) > 0
        return ClassEvaluation(
            samples=len(labels),
            metrics={
                LOSS.name: _mean_cross_entropy(self._right),
                ACCURACY.name: float(right.sum() / len(labels)),
                BALANCED_ACCURACY.name: float(recall[present].mean()),
                MACRO_F1.name: float(f1[present].mean()),
            },
            classes=self._classes,
            confusion=confusion,
            precision=precision,
            recall=recall,
            f1=f1,
        )


def evaluate(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> ClassEvaluation:
    """Compare predicted probabilities with the true classes.

    Args:
        probabilities: (N, C) float, N at least 1.
        labels: (N,) int, 0 .. C-1.
        classes: The C class names.

    Returns:
        The evaluation.

    Raises:
        ValueError: A shape or a label is wrong.
    """
    evaluator = ClassEvaluator(labels, classes)
    evaluator.add(probabilities)
    return evaluator.result()


def _mean_cross_entropy(right: np.ndarray) -> float:
    # np.maximum returns NaN for NaN, so a probability of NaN gives a loss of NaN, as it should.
    # The sum with zero turns -0.0, the loss of a perfect prediction, into 0.0.
    return float(-np.log(np.maximum(right, _MIN_PROBABILITY)).mean()) + 0.0


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    zeros = np.zeros_like(numerator, np.float64)
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)
