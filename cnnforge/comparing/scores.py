"""Predict the common samples with each run, and score the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from cnnforge.comparing.samples import CommonSamples, RunSamples
from cnnforge.errors import UsageError
from cnnforge.tasks import Evaluation, Metric, Task
from cnnforge.tasks.classification import Classification
from cnnforge.tasks.detection import Detection
from cnnforge.tasks.detection.coco import CocoNumbers
from cnnforge.tasks.detection.metrics import DetectionEvaluation
from cnnforge.utils.structures import map_structure


@dataclass(frozen=True)
class Scores:
    """The answers of a run for N samples.

    Attributes:
        value: Value of the metric that is compared.
        evaluation: All metrics.
        right: (N,) bool, whether the answer is right; `None` if answers are not right or wrong.
        values: (N,) float64, the share of each sample in the metric; `None` if a metric is not a
            mean over the samples.
        answers: The N answers as short texts; empty if they have no such form.
        truth: The N true answers as short texts; empty if they have no such form.
        classes: For each class by name, its number of samples and its own value of the metric,
            which is NaN if it has no samples.
    """

    value: float
    evaluation: Evaluation
    right: np.ndarray | None = None
    values: np.ndarray | None = None
    answers: Sequence[str] = ()
    truth: Sequence[str] = ()
    classes: dict[str, tuple[int, float]] | None = None


def compared_metric(task: Task, monitor: str | None) -> Metric:
    """Return the metric in which runs are compared.

    Args:
        task: Task of the runs.
        monitor: Name of the metric that selected the best epoch of the first run, or `None`.

    Returns:
        The accuracy of a classification, the mAP of a detection, and otherwise the metric `monitor`
        or the default of the task.
    """
    if isinstance(task, Classification | Detection):
        return task.monitored()
    return task.monitored(monitor)


def with_known_classes(common: CommonSamples) -> CommonSamples:
    """Leave out the samples of classes that not every run knows.

    Args:
        common: Samples of a classification.

    Raises:
        UsageError: The runs have no class in common that the samples have.
    """
    first = common.of_runs[0]
    known = set.intersection(*(set(_task(each).classes) for each in common.of_runs))
    samples: Any = first.samples
    labels = [first.dataset.classes[label] for label in np.asarray(samples.labels)[first.indices]]
    kept = np.array([label in known for label in labels], bool)
    if kept.all():
        return common
    if not kept.any():
        classes = list(_task(first).classes)
        names = ", ".join([*classes[:3], *(["..."] if len(classes) > 3 else [])])
        raise UsageError(
            f"the runs have different classes, and {common.what} has no picture of a class that "
            f"all of them know (the first knows {names}): compare runs of the same classes, "
            "or name other labelled data with --data"
        )
    return replace(
        common,
        of_runs=[each._replace(indices=each.indices[kept]) for each in common.of_runs],
        names=[name for name, keep in zip(common.names, kept, strict=True) if keep],
        notes=(
            *common.notes,
            f"{int((~kept).sum())} pictures of classes that not every run knows are left out",
        ),
    )


def score(samples: RunSamples, metric: Metric) -> Scores:
    """Predict the samples with a run, and score the answers.

    Args:
        samples: The samples for the run.
        metric: The metric that is compared.

    Raises:
        UsageError: The run does not know a class of the samples.
    """
    task, indices = samples.run.predictor.task, samples.indices
    evaluator = task.evaluator(samples.dataset, samples.samples, indices)
    parts = []
    for _, outputs in samples.run.predictor.predict(samples.samples, indices):
        evaluator.add(outputs)
        parts.append(outputs)
    evaluation = evaluator.result()
    value = float(evaluation.metrics[metric.name])
    if isinstance(task, Classification):
        return _of_classes(samples, task, np.concatenate(parts), evaluation, value)
    if isinstance(task, Detection):
        return _of_objects(cast("DetectionEvaluation", evaluation), value)
    outputs = map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    measured = task.measure(task.targets(samples.samples, indices), outputs)
    if metric.name not in measured:
        raise UsageError(
            f"the task of these runs does not measure {metric.name} for single pictures, which a "
            "comparison needs: 'cnnforge evaluate' shows the metrics of each run"
        )
    return Scores(value, evaluation, values=np.asarray(measured[metric.name], np.float64))


def _task(samples: RunSamples) -> Classification:
    return cast("Classification", samples.run.predictor.task)


def _of_classes(
    samples: RunSamples,
    task: Classification,
    outputs: np.ndarray,
    evaluation: Evaluation,
    value: float,
) -> Scores:
    truth = list(task.truth(samples.dataset, samples.samples, samples.indices) or ())
    chosen = outputs.argmax(axis=1)
    shares = outputs[np.arange(len(outputs)), chosen]
    names = [task.classes[place] for place in chosen]
    right = np.array([name == true for name, true in zip(names, truth, strict=True)], bool)
    found: Any = evaluation
    counts = dict(zip(found.classes, zip(found.support, found.recall, strict=True), strict=True))
    return Scores(
        value,
        evaluation,
        right,
        right.astype(np.float64),
        [f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True)],
        truth,
        {
            name: (int(count), float(recall) if count else float("nan"))
            for name, (count, recall) in counts.items()
        },
    )


def _of_objects(found: DetectionEvaluation, value: float) -> Scores:
    shown = [each.at_least(found.threshold) for each in found.found]
    faults = CocoNumbers(found.truth, shown, found.sizes, len(found.classes)).faults
    classes = {}
    for label, name in enumerate(found.classes):
        of_class = found.of_class(label)
        ap = of_class["map"]
        classes[name] = (of_class["objects"], float("nan") if ap is None else float(ap))
    return Scores(
        value,
        found,
        faults == 0,
        None,
        ["no fault" if n == 0 else "1 fault" if n == 1 else f"{n} faults" for n in faults],
        [_objects(len(each.labels)) for each in found.truth],
        classes,
    )


def _objects(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"
