"""The sections of a run's report that are about classes."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnforge.errors import RunError, one_line
from cnnforge.pages import escape
from cnnforge.pages.parts import Section, Series, chart, paragraphs, table
from cnnforge.runs import EVALUATION, RunDirectory
from cnnforge.tasks.classification.report import Prediction
from cnnforge.tasks.reports import TaskSections
from cnnforge.utils.structured_text import MALFORMED, read_json

# Max number of classes of a confusion matrix that is shown as a whole.
_MAX_MATRIX = 25
_MAX_CONFUSIONS = 40
_PER_CELL, _PER_RIGHT_CELL, _IN_LIST = 8, 3, 24
_BINS = 10


class PredictedRow(NamedTuple):
    """A row of `predictions.csv`.

    Attributes:
        sample: Index of the sample, which is also that of the row in the file.
        name: Source of the image.
        label: The predicted class.
        probability: Probability of `label`, 0 to 1.
        second: The second class; empty if there is only one.
        margin: Difference between the probabilities of the first and of the second class.
        true_label: The true class.
    """

    sample: int
    name: str
    label: str
    probability: float
    second: str
    margin: float
    true_label: str

    @classmethod
    def of(cls, index: int, row: Prediction) -> PredictedRow:
        """Make a row from a prediction with a true class."""
        # Rounded as in the file, so that rows with equal numbers there are in the same order here.
        (label, first), *others = [(name, round(share, 6)) for name, share in row.top]
        second, next_best = others[0] if others else ("", 0.0)
        return cls(index, row.name, label, first, second, first - next_best, row.true_label or "")

    @property
    def right(self) -> bool:
        """Whether the prediction is correct."""
        return self.label == self.true_label


def notable_rows(rows: Sequence[PredictedRow]) -> list[int]:
    """Return the indices of the rows whose pictures the report shows, the most important first."""
    chosen = [row.sample for row in (*_worst(rows), *_least_sure(rows))]
    for cell in _cells(rows).values():
        chosen += [row.sample for row in cell]
    return list(dict.fromkeys(chosen))


def class_sections(run: RunDirectory, thumbnails: Mapping[int, str]) -> TaskSections:
    """Make the sections of a classification from the files of its run.

    Args:
        run: The run.
        thumbnails: The `data:` URI of some samples, by their index.

    Raises:
        RunError: A file is damaged.
    """
    rows = read_rows(run)
    path = run.path / EVALUATION
    try:
        found = read_json(path)["validation"]
        names, counts = list(found["classes"]), np.array(found["confusion_matrix"], np.int64)
        if counts.shape != (len(names), len(names)):
            raise ValueError(f"the confusion matrix has the shape {counts.shape}")
        matrix, by_class = _matrix(names, counts), _class_table(found["classes"])
    except (OSError, *MALFORMED) as error:
        raise RunError(f"{path} cannot be read: {one_line(error)}") from error
    cells = _cells(rows)
    sections = [
        Section("confusion", "Confusion matrix", matrix),
        Section("classes", "Classes", by_class),
        Section(
            "worst",
            "Worst pictures",
            _pictures(
                _worst(rows), thumbnails, "No picture of the validation part is classified wrongly."
            ),
        ),
        Section("unsure", "Least sure pictures", _pictures(_least_sure(rows), thumbnails, "")),
        Section("calibration", "Calibration", _calibration(rows)),
    ]
    place = {name: number for number, name in enumerate(names)}
    data = {
        "cells": {
            f"{place[true]},{place[label]}": [
                [row.sample, row.name, row.probability] for row in cell
            ]
            for (true, label), cell in cells.items()
            if true in place and label in place
        },
        "classes": names,
        "perCell": _PER_CELL,
    }
    return TaskSections(sections, data)


def read_rows(run: RunDirectory) -> list[PredictedRow]:
    """Read the rows of `predictions.csv` that have a true class.

    Raises:
        RunError: The file is damaged.
    """
    path = run.path / "predictions.csv"
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for index, row in enumerate(csv.DictReader(file)):
                first = float(row["probability"] or "nan")
                second = float(row.get("probability_2") or 0.0)
                if row.get("true_label"):
                    if not (0 <= first <= 1 and 0 <= second <= 1):
                        raise ValueError(f"row {index + 1} has a probability that is not 0 to 1")
                    rows.append(
                        PredictedRow(
                            index,
                            row["file"],
                            row["label"],
                            first,
                            row.get("label_2") or "",
                            first - second,
                            row["true_label"],
                        )
                    )
    except OSError:
        # The other sections do not need it.
        return []
    except (*MALFORMED, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {one_line(error)}") from error
    return rows


def _worst(rows: Sequence[PredictedRow]) -> list[PredictedRow]:
    wrong = [row for row in rows if not row.right]
    return sorted(wrong, key=lambda row: -row.probability)[:_IN_LIST]


def _least_sure(rows: Sequence[PredictedRow]) -> list[PredictedRow]:
    return sorted(rows, key=lambda row: row.margin)[:_IN_LIST]


def _cells(rows: Sequence[PredictedRow]) -> dict[tuple[str, str], list[PredictedRow]]:
    """Return some rows of each cell of the confusion matrix, those with errors first."""
    found: dict[tuple[str, str], list[PredictedRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.right, -row.probability)):
        cell = found[row.true_label, row.label]
        if len(cell) < (_PER_RIGHT_CELL if row.right else _PER_CELL):
            cell.append(row)
    return dict(found)


def _matrix(names: Sequence[str], counts: np.ndarray) -> str:
    about = "Rows are true classes, columns predicted ones."
    panel = (
        '<div id="cell" class="panel" aria-live="polite"><p class="muted">Choose a number to see '
        "pictures.</p></div>"
    )
    if len(names) > _MAX_MATRIX:
        rows = _confusions(names, counts)
        lines = "".join(
            f'<tr><th scope="row">{escape(names[true])}</th><td>{escape(names[label])}</td>'
            f'<td class="number">{_button(true, label, counts, names)}</td></tr>'
            for true, label in rows
        )
        head = "".join(
            f'<th scope="col">{each}</th>' for each in ("true class", "predicted", "images")
        )
        shown = f'<table class="facts"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'
        about = (
            f"The matrix of {len(names)} classes is in confusion_matrix.csv. These are its "
            f"{len(rows)} most frequent errors."
        )
    else:
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
        lines = []
        for true, name in enumerate(names):
            largest = max(1, int(counts[true].sum()))
            cells = "".join(
                f'<td class="{_shade(counts[true, label] / largest, true == label)}">'
                f"{_button(true, label, counts, names)}</td>"
                for label in range(len(names))
            )
            lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
        shown = (
            '<table class="matrix-table"><thead><tr><td></td>'
            f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        )
    scroll = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">'
        f"{shown}</div>"
    )
    return f"{paragraphs([about], 'muted')}{scroll}{panel}"


def _confusions(names: Sequence[str], counts: np.ndarray) -> list[tuple[int, int]]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSIONS]
    places = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [(int(true), int(label)) for true, label in places if wrong[true, label]]


def _button(true: int, label: int, counts: np.ndarray, names: Sequence[str]) -> str:
    count = int(counts[true, label])
    if not count:
        return "0"
    about = f"{count} of {names[true]} predicted as {names[label]}: show pictures"
    return (
        f'<button type="button" class="cell" data-cell="{true},{label}" '
        f'aria-label="{escape(about)}">{count:,}</button>'
    )


def _shade(share: float, right: bool) -> str:
    step = 0 if share == 0 else 1 + min(3, int(share * 4))
    return f"{'right' if right else 'wrong'}-{step}"


def _class_table(classes: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            *(f"{values[key]:.4f}" for key in ("precision", "recall", "f1")),
            f"{values['support']:,}",
        )
        for name, values in sorted(classes.items(), key=lambda each: each[1]["f1"])
    ]
    headings = ["class", "precision", "recall", "F1", "images"]
    return table(headings, rows, caption="Classes, the lowest F1 first")


def _pictures(rows: Sequence[PredictedRow], thumbnails: Mapping[int, str], empty: str) -> str:
    if not rows:
        return paragraphs([empty])
    items = []
    for row in rows:
        uri = thumbnails.get(row.sample)
        what = f"{row.true_label}, predicted as {row.label}"
        image = f'<img src="{uri}" alt="{escape(what)}">' if uri else ""
        mark = "right" if row.right else "wrong"
        second = f", then {escape(row.second)}" if row.second else ""
        items.append(
            f'<li class="{mark}">{image}<p><b>{escape(row.label)}</b> {row.probability:.1%}{second}'
            f'<br>true class {escape(row.true_label)}<br><span class="muted" '
            f'title="{escape(row.name)}">{escape(_short(row.name))}</span></p></li>'
        )
    return f'<ul class="pictures">{"".join(items)}</ul>'


def _short(name: str) -> str:
    """Return the last two parts of a path; other names are unchanged."""
    return "/".join(name.replace("\\", "/").split("/")[-2:])


def _calibration(rows: Sequence[PredictedRow]) -> str:
    if not rows:
        return paragraphs(["There are no predictions with a true class."])
    probability = np.array([row.probability for row in rows])
    right = np.array([row.right for row in rows])
    number = np.clip((probability * _BINS).astype(int), 0, _BINS - 1)
    points, lines, error = [], [], 0.0
    for each in range(_BINS):
        chosen = number == each
        if not chosen.any():
            continue
        mean, share, count = probability[chosen].mean(), right[chosen].mean(), int(chosen.sum())
        points.append((float(mean), float(share)))
        error += count / len(rows) * abs(mean - share)
        lines.append((f"{mean:.1%}", f"{share:.1%}", f"{count:,}"))
    drawn = chart(
        "Accuracy of predictions with about the same probability",
        [Series("measured", points)],
        x_title="probability of the predicted class",
        y_range=(0.0, 1.0),
        percent=True,
        diagonal=True,
    )
    mean = probability.mean() - right.mean()
    sure = "too sure" if mean > 0 else "not sure enough"
    text = (
        f"On average, the probability differs from the accuracy by {error:.1%} (expected "
        f"calibration error, {_BINS} bins). The network is {sure}: its mean probability is "
        f"{probability.mean():.1%}, and its accuracy {right.mean():.1%}."
    )
    headings = ["probability", "accuracy", "images"]
    return paragraphs([text]) + drawn + table(headings, lines, caption="Calibration")
