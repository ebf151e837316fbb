"""Format the lines and the table that `cnnforge train` prints about epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnforge.utils.names import resume_command

if TYPE_CHECKING:
    from cnnforge.tasks import Evaluation, Metric, Task
    from cnnforge.training import (
        BatchesDone,
        EpochEnded,
        EpochMetrics,
        FeaturesKept,
        Session,
    )

# A note says that training waits for images if it waits for more than this share of its time, and
# for more than these seconds in an epoch. The wait for the first images is always there.
_MAX_WAITING, _MIN_SECONDS = 0.2, 2.0
# Min width of the text of an epoch's time, in characters. Without it, a line with a longer time,
# such as 100.25 s, could omit parts that the other lines show.
_TIME_WIDTH = 8


def epoch_line(task: Task, monitor: Metric, event: EpochEnded, width: int) -> str:
    """Return the line that is printed at the end of an epoch.

    Args:
        task: The task of the run.
        monitor: The metric that decides which epoch is the best one.
        event: Event with the metrics of the epoch.
        width: Max number of characters of the line.

    Returns:
        One line that begins with `epoch`. It contains training and validation metrics, the time,
        and images per second. If the width is too small, parts are omitted in this order: images
        per second, training metrics, time, all metrics except the monitored one.
    """
    row = event.metrics
    head = f"epoch {row.epoch:{len(str(event.epochs))}}/{event.epochs}"
    shown = [metric for metric in task.metrics if metric.sum is not None or metric is monitor]
    both, validation = [], []
    for metric in shown:
        value = metric.text(row.values[f"val_{metric.name}"])
        validation.append(f"val {metric.short} {value}")
        before = f" {metric.text(row.values[metric.name])}" if metric.name in row.values else ""
        both.append(f"{metric.short}{before} val {value}")
    time = f"{row.seconds:.2f} s"
    speed = f"{row.images_per_second:,.0f} images/s"
    # The parts of possible lines, the longest line first. The first line that fits is used.
    forms = [
        [head, *both, time, speed],
        [head, *both, time],
        [head, *validation, time],
        [head, *validation],
        [head, validation[shown.index(monitor)]],
    ]
    best = "  best"
    slack = max(0, _TIME_WIDTH - len(time))
    lines = [("  ".join(form), slack * (time in form)) for form in forms]
    fitting = [line for line, more in lines if len(line) + len(best) + more <= width]
    line = fitting[0] if fitting else lines[-1][0]
    return line + best if event.best else line


def progress_note(task: Task, event: BatchesDone, epochs: int) -> str:
    """Return the text next to the progress bar: the epoch and its training metrics so far."""
    values = [
        f"{metric.short} {metric.text(event.values[metric.name])}"
        for metric in task.metrics
        if metric.sum
    ]
    return f"epoch {event.epoch}/{epochs}  {'  '.join(values)}"


def features_line(event: FeaturesKept) -> str:
    """Return the line that is printed when the features of a frozen backbone are kept."""
    place = "in a file" if event.on_disk else "in memory"
    return (
        f"features: the frozen backbone computed {event.images:,} images in {event.seconds:.1f} s; "
        f"they are kept {place} ({event.bytes / 1e6:,.1f} MB), so these epochs only train the head"
    )


def waiting_note(session: Session, row: EpochMetrics) -> str:
    """Return a note with a fix if training waited for images for much of an epoch.

    Args:
        session: The run.
        row: Metrics of the epoch.

    Returns:
        One sentence; empty if training waited little.
    """
    if row.waiting <= _MAX_WAITING or row.waiting * row.seconds < _MIN_SECONDS:
        return ""
    from cnnforge.data import ImageFiles

    note = f"training waited for images {row.waiting:.0%} of the time in epoch {row.epoch}"
    if session.options.cache or not isinstance(session.dataset.train, ImageFiles):
        return note
    resumed = resume_command(session.run.path, "--cache")
    return f"{note}; to decode them only once, press Ctrl-C and go on with {resumed}"


def best_table(
    task: Task, best: EpochMetrics, evaluation: Evaluation, test: Evaluation | None = None
) -> tuple[list[str], list[list[object]]]:
    """Make a table of the metrics of the best epoch.

    Args:
        task: The task of the run.
        best: Metrics of the epoch.
        evaluation: The evaluation of the saved model on the validation samples.
        test: The evaluation on the test samples; `None` if the data have none.

    Returns:
        Two lists: the headings of all columns except the first, and the rows of cells: training,
        validation, and test if there is one.
    """
    parts = {"training": best.values, "validation": evaluation.metrics}
    if test is not None:
        parts["test"] = test.metrics
    rows: list[list[object]] = [
        [
            name,
            *(
                metric.text(values[metric.name]) if metric.name in values else None
                for metric in task.metrics
            ),
        ]
        for name, values in parts.items()
    ]
    return [metric.short for metric in task.metrics], rows
