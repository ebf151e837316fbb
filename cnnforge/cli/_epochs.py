"""What `train` says of its epochs, in lines that fit into a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnnforge.tasks import Evaluation, Metric, Task
    from cnnforge.training import BatchesDone, EpochEnded, EpochMetrics

# As wide as most times are: lines keep their form when an epoch takes a little longer.
_TIME = 8


def epoch_line(task: Task, monitor: Metric, event: EpochEnded, width: int) -> str:
    """Return the line of an epoch.

    Args:
        task: What the model learns.
        monitor: The metric that decides which epoch is the best one.
        event: The end of the epoch.
        width: Columns that there are.

    Returns:
        One line that begins with `epoch`. What fits of: metrics of training and validation, the
        time, images per second; the validation metrics come first, the monitored one last of all
        to go.
    """
    row = event.metrics
    head = f"epoch {row.epoch:{len(str(event.epochs))}}/{event.epochs}"
    shown = [it for it in task.metrics if it.sum is not None or it is monitor]
    both, validation = [], []
    for metric in shown:
        value = metric.text(row.values[f"val_{metric.name}"])
        validation.append(f"val {metric.short} {value}")
        before = f" {metric.text(row.values[metric.name])}" if metric.name in row.values else ""
        both.append(f"{metric.short}{before} val {value}")
    time = f"{row.seconds:.2f} s"
    speed = f"{row.images_per_second:,.0f} images/s"
    # From the most to the fewest words; the first that fits is taken.
    forms = [
        [head, *both, time, speed],
        [head, *both, time],
        [head, *validation, time],
        [head, *validation],
        [head, validation[shown.index(monitor)]],
    ]
    best = "  best"
    slack = max(0, _TIME - len(time))
    lines = [("  ".join(form), slack * (time in form)) for form in forms]
    fitting = [line for line, more in lines if len(line) + len(best) + more <= width]
    line = fitting[0] if fitting else lines[-1][0]
    return line + best if event.best else line


def progress_note(task: Task, event: BatchesDone, epochs: int) -> str:
    """Return a few words about an epoch in progress."""
    values = [f"{it.short} {it.text(event.values[it.name])}" for it in task.metrics if it.sum]
    return f"epoch {event.epoch}/{epochs}  {'  '.join(values)}"


def best_table(
    task: Task, best: EpochMetrics, evaluation: Evaluation
) -> tuple[list[str], list[list[object]]]:
    """Return a table of the best epoch.

    Args:
        task: What the model learns.
        best: Metrics of the epoch.
        evaluation: The evaluation of the saved model.

    Returns:
        The headings but for the first column, and a row each for training and validation.
    """
    rows: list[list[object]] = [["training"], ["validation"]]
    for metric in task.metrics:
        trained = best.values.get(metric.name)
        rows[0].append(None if trained is None else metric.text(trained))
        rows[1].append(metric.text(evaluation.metrics[metric.name]))
    return [metric.short for metric in task.metrics], rows
