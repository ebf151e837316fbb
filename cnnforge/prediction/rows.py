"""What a prediction says about one image, and tables of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnforge.runs import to_csv


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image's row: its classes, or why there are none.

    Attributes:
        name: Where the image came from: a path, `"mnist5k 42"`.
        top: The most probable classes with their probabilities, the best first; empty where
            the image could not be read.
        true_label: The class it belongs to, where that is known.
        error: Why the image could not be read.
    """

    name: str
    top: tuple[tuple[str, float], ...] = ()
    true_label: str | None = None
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The most probable class."""
        return self.top[0][0] if self.top else None

    @property
    def probability(self) -> float | None:
        """Its probability, 0 to 1."""
        return self.top[0][1] if self.top else None

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain values, ready for JSON."""
        return {
            "file": self.name,
            "label": self.label,
            "probability": self.probability,
            "top": [{"label": label, "probability": share} for label, share in self.top],
            "true_label": self.true_label,
            "error": self.error,
        }


def rank(
    probabilities: np.ndarray, classes: Sequence[str], top_k: int
) -> list[tuple[tuple[str, float], ...]]:
    """Pick the most probable classes of every sample.

    Args:
        probabilities: (N, C) float.
        classes: The C names.
        top_k: How many to pick; at most C are there.

    Returns:
        For each sample its classes with their probabilities, the best first; of equal ones the
        one with the lower index.
    """
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        tuple((classes[int(index)], float(row[index])) for index in chosen)
        for row, chosen in zip(probabilities, best, strict=True)
    ]


def csv_table(predictions: Sequence[Prediction]) -> str:
    """Write predictions as CSV.

    Args:
        predictions: The rows.

    Returns:
        Columns `file`, `label`, `probability`, then `label_2`, `probability_2` and so on, and
        `true_label` and `error` where a row has one.
    """
    depth = max((len(row.top) for row in predictions), default=1) or 1
    with_truth = any(row.true_label is not None for row in predictions)
    with_error = any(row.error is not None for row in predictions)
    header = ["file", "label", "probability"]
    for place in range(2, depth + 1):
        header += [f"label_{place}", f"probability_{place}"]
    header += ["true_label"] * with_truth + ["error"] * with_error
    rows = []
    for prediction in predictions:
        cells = [prediction.name]
        for place in range(depth):
            label, share = prediction.top[place] if place < len(prediction.top) else ("", None)
            cells += [label, "" if share is None else f"{share:.6f}"]
        cells += [prediction.true_label or ""] * with_truth + [prediction.error or ""] * with_error
        rows.append(cells)
    return to_csv(header, rows)


def submission(predictions: Sequence[Prediction]) -> str:
    """Write predictions in the form that Kaggle's digit recognizer takes.

    Args:
        predictions: The rows, in the order of the test file.

    Returns:
        CSV with the columns `ImageId`, counted from 1, and `Label`; the label of an image that
        could not be read is empty.
    """
    rows = [[number, row.label or ""] for number, row in enumerate(predictions, start=1)]
    return to_csv(["ImageId", "Label"], rows)
