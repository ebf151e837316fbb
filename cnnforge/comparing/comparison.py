"""Compare two groups of runs on the samples that none of them was trained on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cnnforge.comparing.differences import (
    Difference,
    configuration_differences,
    environment_differences,
)
from cnnforge.comparing.history import fluctuation
from cnnforge.comparing.samples import CommonSamples, ComparedRun, common_samples
from cnnforge.comparing.scores import Scores, compared_metric, score, with_known_classes
from cnnforge.comparing.statistics import (
    SignificanceTest,
    interval,
    mcnemar,
    shown_p,
    sign_flips,
    spread_test,
    with_fluctuation,
)
from cnnforge.errors import UsageError
from cnnforge.prediction.samples import Part
from cnnforge.tasks import Metric
from cnnforge.tasks.classification import Classification
from cnnforge.tasks.detection import DetectionEvaluation

_DRAWS = 1000
_FEW = 100


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, often only one run.

    Attributes:
        name: Name for the user: `"A"` or `"B"`.
        runs: The runs.
        scores: The scores of each run.
    """

    name: str
    runs: Sequence[ComparedRun]
    scores: Sequence[Scores]

    @property
    def values(self) -> list[float]:
        """The metric of each run."""
        return [each.value for each in self.scores]

    @property
    def mean(self) -> float:
        """Mean of the metric over the runs."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the metric over the runs; `None` for one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def right(self) -> np.ndarray | None:
        """(N,) float64, the share of the runs that are right on each sample, or `None`."""
        if self.scores[0].right is None:
            return None
        right: Any = [each.right for each in self.scores]
        return np.mean(right, axis=0)

    def answer(self, number: int) -> str:
        """Return the answer for a sample as a short text."""
        if len(self.scores) == 1:
            return self.scores[0].answers[number]
        share = self.right
        count = 0 if share is None else round(float(share[number]) * len(self.scores))
        return f"right in {count} of {len(self.scores)} runs"


class Flip(NamedTuple):
    """A sample on which only one of the groups is right.

    In a group of several runs, more than half of them are right, or fewer.

    Attributes:
        number: Index of the sample among the common ones.
        name: Name of the sample.
        truth: The true answer.
        first: The answer of the first group.
        second: The answer of the second group.
        better: Name of the group that is right.
    """

    number: int
    name: str
    truth: str
    first: str
    second: str
    better: str


class ClassRow(NamedTuple):
    """The difference in one class.

    Attributes:
        name: Name of the class.
        samples: Number of its samples, or of its objects.
        first: Mean over the first group: recall, or AP of objects. NaN if it has no samples.
        second: The same for the second group.
    """

    name: str
    samples: int
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """The comparison of two groups of runs.

    Attributes:
        metric: The metric that is compared.
        common: The samples that none of the runs was trained on.
        first: The first group, A.
        second: The second group, B.
        tests: The tests. The groups differ if each of them finds a difference.
        difference: The metric of B minus that of A, and the ends of its 95 % interval, which holds
            for other samples. NaN for the ends if they are not known.
        flips: The samples on which only one group is right.
        both: Number of samples on which both groups are right; `None` if answers are not right or
            wrong.
        classes: The classes; empty if the task has none.
        configuration: The options that differ.
        environment: The facts about the machines and packages that differ.
        notes: Messages for the user, one sentence each.
    """

    metric: Metric
    common: CommonSamples
    first: Group
    second: Group
    tests: Sequence[SignificanceTest]
    difference: tuple[float, float, float]
    flips: Sequence[Flip]
    both: int | None
    classes: Sequence[ClassRow]
    configuration: Sequence[Difference]
    environment: Sequence[Difference]
    notes: Sequence[str]

    @property
    def differ(self) -> bool:
        """Whether the groups differ by more than chance explains."""
        return all(test.differs for test in self.tests)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        first, second, metric = self.first, self.second, self.metric
        tests = " and ".join(f"{test.name}: {shown_p(test.p)}" for test in self.tests)
        mean = "" if len(first.runs) == len(second.runs) == 1 else "mean "
        found = (
            f"on {len(self.common):,} pictures the {mean}{metric.title} of A is "
            f"{metric.text(first.mean)} and that of B {metric.text(second.mean)} ({tests})."
        )
        if not self.differ:
            return f"They do not differ: {found}"
        better = (second.mean > first.mean) == (metric.best == "max")
        return f"They differ, and {second.name if better else first.name} is better: {found}"

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values, ready for JSON."""
        mean, low, high = self.difference
        return {
            "differ": self.differ,
            "verdict": self.verdict,
            "metric": self.metric.name,
            "data": self.common.what,
            "samples": {
                "compared": len(self.common),
                "trained_on": self.common.trained,
                "total": self.common.total,
            },
            "a": _group_dict(self.first),
            "b": _group_dict(self.second),
            "difference": {"mean": mean, "low": _known(low), "high": _known(high)},
            "tests": [test.as_dict() for test in self.tests],
            "flips": [
                {
                    "file": flip.name,
                    "truth": flip.truth,
                    "a": flip.first,
                    "b": flip.second,
                    "right": flip.better,
                }
                for flip in self.flips
            ],
            "both_right": self.both,
            "classes": {
                row.name: {
                    "samples": row.samples,
                    "a": _known(row.first),
                    "b": _known(row.second),
                    "difference": _known(row.second - row.first),
                }
                for row in self.classes
            },
            "configuration": _differences_dict(self.configuration),
            "environment": _differences_dict(self.environment),
            "notes": list(self.notes),
        }


def compare_runs(
    first: Sequence[ComparedRun],
    second: Sequence[ComparedRun],
    data: str | None = None,
    part: Part = "validation",
) -> Comparison:
    """Compare two groups of runs.

    Args:
        first: The runs of the first group.
        second: The runs of the second group.
        data: Reference of labelled data; `None`: the data of the first run.
        part: `"test"` chooses the test part of the data.

    Raises:
        UsageError: The runs have different tasks, or no sample can be compared.
        DataError: The data cannot be read.
        RunError: A file of a run is damaged.
    """
    runs = [*first, *second]
    _check_tasks(runs)
    task = runs[0].predictor.task
    metric = compared_metric(task, runs[0].options.get("monitor"))
    common = common_samples(runs, data, part)
    if isinstance(task, Classification):
        common = with_known_classes(common)
    scores = [score(each, metric) for each in common.of_runs]
    a = Group("A", first, scores[: len(first)])
    b = Group("B", second, scores[len(first) :])
    tests, difference = _tests(a, b, metric)
    configuration = configuration_differences(
        [each.options for each in first], [each.options for each in second]
    )
    return Comparison(
        metric=metric,
        common=common,
        first=a,
        second=b,
        tests=tests,
        difference=difference,
        flips=_flips(a, b, common),
        both=_both(a, b),
        classes=_classes(a, b),
        configuration=configuration,
        environment=environment_differences(
            [each.path for each in first], [each.path for each in second]
        ),
        notes=(*common.notes, *_notes(a, b, common, configuration)),
    )


def _check_tasks(runs: Sequence[ComparedRun]) -> None:
    tasks = runs[0].plugins.tasks
    for each in runs[1:]:
        if not tasks.same(runs[0].data.task, each.data.task):
            own, other = (tasks.shortest_name(tasks[r.data.task]) for r in (runs[0], each))
            raise UsageError(
                f"{runs[0].path} is a run for the task {own!r} and {each.path} for {other!r}, so "
                "their answers cannot be compared: choose two runs of one task, see 'cnnforge runs'"
            )


def _tests(
    first: Group, second: Group, metric: Metric
) -> tuple[list[SignificanceTest], tuple[float, float, float]]:
    """Return the tests, and the difference of the metric with its interval."""
    tests = []
    single = len(first.runs) == len(second.runs) == 1
    right = first.right, second.right
    values: Any = [[each.values for each in group.scores] for group in (first, second)]
    if values[0][0] is not None:
        differences = np.mean(values[1], axis=0) - np.mean(values[0], axis=0)
        if single and right[0] is not None and right[1] is not None:
            only = [int(np.count_nonzero(differences * sign > 0)) for sign in (-1, 1)]
            tests.append(mcnemar(*only))
        else:
            tests.append(sign_flips(differences))
        difference = interval(differences)
    else:
        middle = [_median(group) for group in (first, second)]
        found = middle[0].numbers.difference(middle[1].numbers, _DRAWS)
        tests.append(SignificanceTest("paired bootstrap over the pictures", found.p))
        difference = found.mean, found.low, found.high
    if single:
        found = [fluctuation(group.runs[0].path, metric.name) for group in (first, second)]
        spread = with_fluctuation(difference, found[0], found[1])
    else:
        spread = spread_test(first.values, second.values)
    return [*tests, *([] if spread is None else [spread])], difference


def _median(group: Group) -> DetectionEvaluation:
    """Return the evaluation of the run whose value is in the middle."""
    ordered = sorted(group.scores, key=lambda each: each.value)
    found: Any = ordered[len(ordered) // 2].evaluation
    return found


def _flips(first: Group, second: Group, common: CommonSamples) -> list[Flip]:
    a, b = first.right, second.right
    if a is None or b is None:
        return []
    found = []
    for number in np.flatnonzero((a > 0.5) != (b > 0.5)):
        at = int(number)
        found.append(
            Flip(
                at,
                common.names[at],
                first.scores[0].truth[at],
                first.answer(at),
                second.answer(at),
                first.name if a[at] > 0.5 else second.name,
            )
        )
    return found


def _both(first: Group, second: Group) -> int | None:
    a, b = first.right, second.right
    if a is None or b is None:
        return None
    return int(np.count_nonzero((a > 0.5) & (b > 0.5)))


def _classes(first: Group, second: Group) -> list[ClassRow]:
    known = [[each.classes or {} for each in group.scores] for group in (first, second)]
    names = [name for name in known[0][0] if all(name in each for g in known for each in g)]

    def mean(group: list[dict[str, tuple[int, float]]], name: str) -> float:
        return statistics.fmean(each[name][1] for each in group)

    return [
        ClassRow(name, known[0][0][name][0], mean(known[0], name), mean(known[1], name))
        for name in names
    ]


def _notes(
    first: Group, second: Group, common: CommonSamples, configuration: Sequence[Difference]
) -> list[str]:
    notes = []
    names = {each.name for each in configuration}
    if not names:
        notes.append("the runs have the same configuration")
    elif names <= {"seed", "split_seed"}:
        notes.append("the runs differ only in the seed")
    if len(first.runs) == len(second.runs) == 1 and not names <= {"seed", "split_seed"}:
        notes.append(
            "one run of each does not show how much the seed changes the result: train several with"
            " 'cnnforge train --repeat 3' and name their folders"
        )
    if len(common) < _FEW:
        cause = f"only {len(common)} pictures count, so a small difference cannot be seen"
        if "split_seed" in names:
            notes.append(f"{cause}: runs with the same --split-seed are validated on the same ones")
        else:
            notes.append(f"{cause}: name more labelled data with --data")
    return notes


def _group_dict(group: Group) -> dict[str, Any]:
    return {
        "mean": group.mean,
        "std": group.spread,
        "runs": [
            {"run": str(run.path), **scores.evaluation.metrics}
            for run, scores in zip(group.runs, group.scores, strict=True)
        ],
    }


def _differences_dict(found: Sequence[Difference]) -> list[dict[str, str]]:
    return [{"name": each.name, "a": each.first, "b": each.second} for each in found]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
