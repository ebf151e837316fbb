"""Write the confusion matrix of a run as a table and as a figure."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from cnnforge.reporting.figures import confusion_matrix
from cnnforge.runs import RunDirectory
from cnnforge.utils.names import resume_command

CONFUSION = "confusion_matrix.csv"
# Max number of class names in a message.
_MAX_EXAMPLES = 3

_log = logging.getLogger(__name__)


def write_confusion_matrix(
    run: RunDirectory, classes: Sequence[str], counts: np.ndarray, title: str
) -> None:
    """Write a confusion matrix as a CSV file and as a figure.

    A warning is logged for each of the two that could not be written.

    Args:
        run: The run.
        classes: The C class names.
        counts: (C, C) int64; rows are true classes, columns predicted classes.
        title: Title of the figure, after the name of the run.
    """
    with run.optional(CONFUSION):
        rows = zip(classes, counts.tolist(), strict=True)
        header = ["true \\ predicted", *classes]
        run.write_csv(CONFUSION, header, ([name, *row] for name, row in rows))
    with run.optional("confusion_matrix.png"), run.writing("confusion_matrix.png") as path:
        replaced = confusion_matrix(
            path, classes=classes, counts=counts, title=f"{run.name}: {title}"
        )
        if replaced:
            more = ", ..." if len(replaced) > _MAX_EXAMPLES else ""
            _log.warning(
                "confusion_matrix.png shows %d of %d class names in Latin letters, because no "
                "installed font can show them: %s; install a font that can, such as Noto, and type "
                "%s",
                len(replaced),
                len(classes),
                ", ".join(replaced[:_MAX_EXAMPLES]) + more,
                resume_command(run.path),
            )
