"""Write the report of a detector into its run: tables and figures."""

from __future__ import annotations

import numpy as np

from cnnforge.runs import RunDirectory
from cnnforge.tasks.confusion import write_confusion_matrix
from cnnforge.tasks.detection import figures
from cnnforge.tasks.detection.metrics import MAP, MAP50, DetectionEvaluation

BACKGROUND = "(background)"
"""Name of the background in the confusion matrix."""

# The columns of the table of classes: their headings, and their names in `evaluation.json`.
_NUMBERS = {
    "mAP50-95": "map",
    "mAP50": "map50",
    "AR": "ar100",
    "precision": "precision",
    "recall": "recall",
    "F1": "f1",
}


def class_table(evaluation: DetectionEvaluation) -> tuple[list[str], list[list[object]]]:
    """Return the headings and the rows of a table with the numbers of every class.

    Precision, recall and F1 are those at the confidence `evaluation.threshold`, at IoU 0.5.
    """
    rows: list[list[object]] = []
    for label, name in enumerate(evaluation.classes):
        values = evaluation.of_class(label)
        numbers = (values[key] for key in _NUMBERS.values())
        shown = ["" if value is None else f"{value:.4f}" for value in numbers]
        rows.append([name, values["objects"], *shown])
    return ["class", "objects", *_NUMBERS], rows


def write_report(run: RunDirectory, evaluation: DetectionEvaluation) -> None:
    """Write tables and figures. A warning is logged for each that could not be written."""
    with run.optional("per_class.csv"):
        run.write_csv("per_class.csv", *class_table(evaluation))
    with run.optional("errors.csv"):
        found = evaluation.errors
        lines = [[name, count, f"{lost:.6f}"] for name, (count, lost) in found.items()]
        run.write_csv("errors.csv", ["error", "count", "lost mAP50"], lines)
    with run.optional("pr_curve.csv"):
        _write_curves(run, evaluation)
    threshold = evaluation.threshold
    values = evaluation.metrics
    title = f"mAP50 {values[MAP50.name]:.3f}, mAP50-95 {values[MAP.name]:.3f}"
    with run.optional("pr_curve.png"), run.writing("pr_curve.png") as path:
        figures.curves(path, evaluation, f"{run.name}: {title}")
    write_confusion_matrix(
        run,
        [*evaluation.classes, BACKGROUND],
        evaluation.numbers.confusion(threshold),
        f"confidence from {threshold:.2f}, IoU from 0.5",
    )
    with run.optional("validation.png"), run.writing("validation.png") as path:
        figures.truth_and_found(path, evaluation, f"{run.name}: {title}")
    with run.optional("labels.png"), run.writing("labels.png") as path:
        figures.labels(path, evaluation.dataset, f"{evaluation.dataset.name}: training objects")


def _write_curves(run: RunDirectory, evaluation: DetectionEvaluation) -> None:
    recalls = np.linspace(0, 1, 101)
    lines = []
    for label, name in enumerate(evaluation.classes):
        curve = evaluation.numbers.curve(label)
        if curve is not None:
            for recall, precision, confidence in zip(recalls, *curve, strict=True):
                lines.append([name, f"{recall:.2f}", f"{precision:.6f}", f"{confidence:.6f}"])
    run.write_csv("pr_curve.csv", ["class", "recall", "precision", "confidence"], lines)
