"""Print the tables of an evaluation that only a terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from cnnforge.tasks import Evaluation, Task

# Max number of classes of a table at the end of training.
_MAX_SHOWN = 20
# Max number of classes of a confusion matrix, and of pairs if there are more classes.
_MAX_CLASSES, _MAX_PAIRS = 10, 8
# Number of columns between two columns of a table, and min width of a name in front of a matrix.
_BETWEEN, _MIN_NAME = 3, 10


def show_details(task: Task, evaluation: Evaluation) -> None:
    """Print which classes are confused, or the numbers of each class for a task without confusion.

    Args:
        task: The task.
        evaluation: Result of an evaluator of this task.
    """
    from cnnforge.cli import _render

    if show_confusion(task, evaluation):
        return
    columns, rows = task.table(evaluation)
    if rows:
        _render.result("")
        _render.table(columns, rows[:_MAX_SHOWN])
        if len(rows) > _MAX_SHOWN:
            _render.result(f"and {len(rows) - _MAX_SHOWN} more; 'cnnforge evaluate' shows them")


def show_confusion(task: Task, evaluation: Evaluation) -> bool:
    """Print which classes are confused.

    It is the confusion matrix if there are at most ten classes, and the terminal is wide enough.
    Otherwise it is a table with the pairs of classes that are confused most often.

    Args:
        task: The task.
        evaluation: Result of an evaluator of this task.

    Returns:
        Whether the task has a confusion matrix.
    """
    from cnnforge.cli import _render

    found = task.confusion(evaluation)
    if found is None:
        return False
    classes, counts = found
    total, wrong = int(counts.sum()), int(counts.sum() - counts.trace())
    _render.result("")
    if not wrong:
        _render.result(f"no class is confused: all {total:,} images are right")
        return True
    if len(classes) <= _MAX_CLASSES:
        numbers = [str(number) for number in range(1, len(classes) + 1)]
        numbered = [f"{number} {name}" for number, name in zip(numbers, classes, strict=True)]
        # Long names become numbers above the columns.
        for headings, names in ((classes, classes), (numbers, numbered)):
            left = _render.table_width() - _width_of(headings, counts)
            if left >= max(map(_render.width_of, names)) or (
                headings is numbers and left >= _MIN_NAME
            ):
                rows = [
                    [_render.shortened(name, left), *(count or None for count in row)]
                    for name, row in zip(names, counts.tolist(), strict=True)
                ]
                title = "images of each true class (row) by predicted class (column)"
                _render.table(["", *headings], rows, title=title)
                return True
    _show_pairs(classes, counts, f"{wrong:,} of {total:,} images are wrong, most often:")
    return True


def _width_of(headings: Sequence[str], counts: np.ndarray) -> int:
    """Return the width of the columns of a matrix, with the space before each."""
    from cnnforge.cli import _render

    return sum(
        max(_render.width_of(heading), len(str(most))) + _BETWEEN
        for heading, most in zip(headings, counts.max(axis=0).tolist(), strict=True)
    )


def _show_pairs(classes: Sequence[str], counts: np.ndarray, title: str) -> None:
    from cnnforge.cli import _render

    errors = counts.copy()
    errors[range(len(classes)), range(len(classes))] = 0
    order = (-errors).argsort(axis=None, kind="stable")[:_MAX_PAIRS].tolist()
    width = max(_MIN_NAME, (_render.table_width() - 3 * _BETWEEN - len("imagesof the class")) // 2)
    rows: list[list[object]] = []
    for place in order:
        true, predicted = divmod(place, len(classes))
        count = int(errors[true, predicted])
        if count:
            names = [_render.shortened(str(classes[index]), width) for index in (true, predicted)]
            rows.append([*names, count, f"{count / int(counts[true].sum()):.1%}"])
    _render.table(["true class", "predicted", "images", "of the class"], rows, title=title)
