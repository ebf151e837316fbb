"""Write the predictions and evaluations of classifications: table rows and CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnforge.runs import to_csv
from cnnforge.tasks.classification.metrics import ClassEvaluation
from cnnforge.tasks.rows import csv_table as csv_of_rows

# Columns that a table of predictions always has.
COLUMNS = ("label", "probability")


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted classes of one image, or the reason why the image could not be read.

    Attributes:
        name: Source of the image, for instance a path or `"mnist5k 42"`.
        top: The most probable classes with their probabilities, the best first; empty if the image
            could not be read.
        true_label: Name of the true class, or `None`.
        error: Reason why the image could not be read; `None` if it was read.
    """

    name: str
    top: tuple[tuple[str, float], ...] = ()
    true_label: str | None = None
    error: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what `pickle` writes; its default takes two or three times as long."""
        return Prediction, (self.name, self.top, self.true_label, self.error)

    @property
    def label(self) -> str | None:
        """The most probable class; `None` if the image could not be read."""
        return self.top[0][0] if self.top else None

    @property
    def probability(self) -> float | None:
        """The probability of `label`, 0 to 1; `None` if the image could not be read."""
        return self.top[0][1] if self.top else None

    def cells(self) -> dict[str, str]:
        """Return the cells of a CSV row by column name: `label`, `probability`, `label_2`, ..."""
        found = {}
        for place, (label, share) in enumerate(self.top, 1):
            number = f"_{place}" if place > 1 else ""
            found |= {f"label{number}": label, f"probability{number}": f"{share:.6f}"}
        return found if self.true_label is None else {**found, "true_label": self.true_label}

    def shown(self) -> dict[str, str]:
        """Return the cells of a row in a terminal table, by column name."""
        if not self.top:
            return {}
        others = ", ".join(f"{label} {share:.2%}" for label, share in self.top[1:])
        found = {
            "label": self.top[0][0],
            "probability": f"{self.top[0][1]:.2%}",
            "next best": others,
        }
        return found if self.true_label is None else {**found, "true label": self.true_label}

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values, ready for JSON."""
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
        classes: The C class names.
        top_k: Max number of classes per sample.

    Returns:
        The classes of each sample with their probabilities, the most probable first. Classes with
        equal probabilities are sorted by index.
    """
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        tuple((classes[int(index)], float(row[index])) for index in chosen)
        for row, chosen in zip(probabilities, best, strict=True)
    ]


def csv_table(predictions: Sequence[Prediction]) -> str:
    """Convert predictions to CSV.

    Args:
        predictions: The rows.

    Returns:
        CSV text with the columns `file`, `label`, `probability`, further columns if a row has them,
        and `error` if a row has an error.
    """
    return csv_of_rows(predictions, COLUMNS)


def submission(predictions: Sequence[Prediction], ids: Sequence[str], id_name: str) -> str:
    """Convert predictions to a submission file for a competition.

    Args:
        predictions: N rows.
        ids: N ids of the images of the rows.
        id_name: Name of the ids, such as `"ImageId"`.

    Returns:
        CSV text with two columns: the ids, and the labels. The heading of the labels is `Label` or
        `label`, in the case of `id_name`. The label of an image that could not be read is empty.
    """
    heading = "Label" if id_name[:1].isupper() else "label"
    rows = [[own, row.label or ""] for own, row in zip(ids, predictions, strict=True)]
    return to_csv([id_name, heading], rows)


def class_table(evaluation: ClassEvaluation) -> tuple[list[str], list[list[object]]]:
    """Return the headings and the rows of a table with precision, recall and F1 of every class."""
    numbers = zip(
        evaluation.classes,
        evaluation.precision,
        evaluation.recall,
        evaluation.f1,
        evaluation.support,
        strict=True,
    )
    rows: list[list[object]] = [
        [name, f"{p:.4f}", f"{r:.4f}", f"{f:.4f}", int(n)] for name, p, r, f, n in numbers
    ]
    return ["class", "precision", "recall", "F1", "images"], rows
