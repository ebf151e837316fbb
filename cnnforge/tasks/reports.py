"""The part of a task that reports about a training that has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cnnforge.pages.parts import Section
from cnnforge.runs import RunDirectory
from cnnforge.tasks.metric import Evaluation
from cnnforge.tasks.rows import Row

if TYPE_CHECKING:
    import keras
    import numpy as np

# Number of samples whose pictures the report of a run shows by default.
_SHOWN = 24


@dataclass(frozen=True)
class TaskSections:
    """Sections of a report that only one task has.

    Attributes:
        sections: The sections, in their order.
        data: Plain values for the script of the report, by name.
    """

    sections: Sequence[Section] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


class Reports:
    """Base class of `Task`: files, tables and pages about a training that has ended."""

    def report(self, run: RunDirectory, evaluation: Evaluation) -> None:
        """Write tables and figures of an evaluation into a run directory.

        The caller writes `evaluation.json` before it calls this method.

        Args:
            run: The run.
            evaluation: Result of an evaluator of this task.
        """

    def export(self, run: RunDirectory, model: keras.Model) -> None:
        """Write models for other programs into a run directory; `model` is the saved model."""

    def notable(self, rows: Sequence[Row]) -> Sequence[int]:
        """Choose the samples whose pictures the report of a run shows.

        Args:
            rows: The rows of all validation samples.

        Returns:
            Indices into `rows`, the most important first. The run keeps as many of the pictures as
            fit into its limit.
        """
        return range(min(_SHOWN, len(rows)))

    def sections(self, run: RunDirectory, thumbnails: Mapping[int, str]) -> TaskSections:
        """Make the sections of the report of a run that only this task has.

        Args:
            run: The run. The sections are made from its files.
            thumbnails: The `data:` URI of the picture of some validation samples, by their index.

        Raises:
            RunError: A file of the run is damaged.
        """
        return TaskSections()

    def table(self, evaluation: Evaluation) -> tuple[list[str], list[list[object]]]:
        """Return the headings and the rows of a table, which `cnnforge evaluate` prints.

        Args:
            evaluation: Result of an evaluator of this task.
        """
        return [], []

    def confusion(self, evaluation: Evaluation) -> tuple[Sequence[str], np.ndarray] | None:
        """Return the confusion matrix, which commands show on a terminal.

        Args:
            evaluation: Result of an evaluator of this task.

        Returns:
            The C class names, and the counts, (C, C) int64; rows are true classes, columns
            predicted classes. `None` if the task has no such matrix.
        """
        return None
