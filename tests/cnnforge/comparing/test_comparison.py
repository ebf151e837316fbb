"""Comparisons of runs whose answers are known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from detection_samples import judged

from cnnforge.comparing.comparison import Comparison, Group, compare_runs
from cnnforge.comparing.differences import configuration_differences, environment_differences
from cnnforge.comparing.samples import ComparedRun
from cnnforge.comparing.scores import Scores, compared_metric, score
from cnnforge.comparing.statistics import SignificanceTest, shown_p
from cnnforge.errors import RunError, UsageError
from cnnforge.plugin_host.discovery import discover
from cnnforge.tasks import LOSS, Evaluation, Metric, Task
from cnnforge.tasks.detection import Detection
from cnnforge.tasks.detection.coco import CocoNumbers
from cnnforge.tasks.evaluators import MeanEvaluator


def run_of(task: str) -> ComparedRun:
    data: Any = SimpleNamespace(task=task)
    return ComparedRun(Path(task), None, data, discover(), {})


def test_runs_of_different_tasks_are_refused() -> None:
    runs = [run_of("cnnforge/classification"), run_of("builtin/detection")]
    with pytest.raises(UsageError, match=r"'classification'.*'detection'.*two runs of one task"):
        compare_runs(runs[:1], runs[1:])


def test_options_that_say_how_a_run_was_trained_are_compared() -> None:
    first = [{"seed": 0, "output": "a", "augment": ["flip", "shift:1"], "strict": False}]
    second = [{"seed": 1, "output": "b", "augment": [], "ema": 0.9}, {"seed": 2, "ema": 0.9}]
    assert configuration_differences(first, second) == [
        ("seed", "0", "1, 2"),
        ("augment", "flip + shift:1", "none"),
        ("strict", "no", "none"),
        ("ema", "none", "0.9"),
    ]
    assert configuration_differences(first, first) == []


def test_versions_and_machines_are_compared(tmp_path: Path) -> None:
    for name, version, cores in (("a", "3.15.1", 2), ("b", "3.16.0", 2), ("old", "", 0)):
        (tmp_path / name).mkdir()
        if version:
            text = '{"packages": {"keras": "%s"}, "cpu": {"usable_cores": %d}, "git": null}'
            (tmp_path / name / "environment.json").write_text(text % (version, cores))
    a, b, old = (tmp_path / name for name in ("a", "b", "old"))
    assert environment_differences([a], [b]) == [("keras", "3.15.1", "3.16.0")]
    assert ("keras", "3.15.1", "none") in environment_differences([a], [old])
    (a / "environment.json").write_text("{")
    with pytest.raises(RunError, match=r"environment\.json cannot be read"):
        environment_differences([a], [b])


def test_a_small_p_is_short() -> None:
    assert [shown_p(p) for p in (1.0, 0.0321, 0.00004)] == ["p = 1.00", "p = 0.032", "p < 0.001"]


class Height(Task):
    """A task of a plugin that measures each picture."""

    metrics = (LOSS, Metric("error", "error", "error", "min"))
    monitor = "error"

    def targets(self, samples: Any, indices: np.ndarray) -> Any:
        return {"height": samples.heights[indices]}

    def measure(self, targets: Any, outputs: Any) -> Any:
        error = np.abs(targets["height"] - outputs)
        return {"loss": error**2, "error": error}


def test_a_task_of_a_plugin_is_compared_by_its_monitored_metric() -> None:
    task = Height()
    samples: Any = SimpleNamespace(heights=np.arange(6.0))
    predictor: Any = SimpleNamespace(
        task=task,
        predict=lambda samples, indices: iter(
            [(indices[:4], samples.heights[indices[:4]] + 2), (indices[4:], np.zeros(1))]
        ),
    )
    run: Any = SimpleNamespace(predictor=predictor)
    of_run: Any = SimpleNamespace(
        run=run, dataset=None, samples=samples, indices=np.array([0, 1, 2, 3, 5])
    )
    assert isinstance(task.evaluator(None, samples, of_run.indices), MeanEvaluator)
    found = score(of_run, compared_metric(task, None))
    assert found.values.tolist() == [2, 2, 2, 2, 5]
    assert found.value == pytest.approx(13 / 5)
    assert found.right is None


def detectors(weaker: float) -> tuple[CocoNumbers, CocoNumbers]:
    truth, found, sizes, classes = judged(0, images=30)
    kept = [
        each._replace(
            boxes=each.boxes[: round(len(each.boxes) * weaker)],
            labels=each.labels[: round(len(each.boxes) * weaker)],
            scores=each.scores[: round(len(each.boxes) * weaker)],
        )
        for each in found
    ]
    return (
        CocoNumbers(truth, found, sizes, classes),
        CocoNumbers(truth, kept, sizes, classes),
    )


def test_detectors_are_compared_by_a_paired_bootstrap() -> None:
    good, same = detectors(1.0)
    assert good.difference(same, 100) == (0.0, 0.0, 0.0, 1.0)
    good, worse = detectors(0.2)
    found = good.difference(worse, 200)
    assert found.mean == pytest.approx(worse.stats[0] - good.stats[0])
    assert found.low < found.mean < found.high < 0
    assert found.p < 0.05


def test_the_faults_of_a_detector_are_counted_in_each_image() -> None:
    numbers, _ = detectors(1.0)
    matches = numbers.matches
    wrong = len(matches.right) - int(matches.right.sum())
    missed = int(matches.objects.sum() - matches.right.sum())
    assert numbers.faults.shape == (30,)
    assert numbers.faults.sum() == wrong + missed


def group(name: str, *values: float, right: list[list[bool]] | None = None) -> Group:
    scores = [
        Scores(
            value,
            Evaluation(samples=4, metrics={"accuracy": value}),
            None if right is None else np.array(right[place]),
            None if right is None else np.array(right[place], float),
            ["x"] * 4,
            ["y"] * 4,
        )
        for place, value in enumerate(values)
    ]
    return Group(name, [run_of("cnnforge/classification")] * len(values), scores)


def test_a_group_is_right_if_most_of_its_runs_are() -> None:
    found = group("A", 0.5, 0.75, 0.5, right=[[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0]])
    assert found.right.tolist() == pytest.approx([1, 2 / 3, 2 / 3, 0])
    assert found.mean == pytest.approx(1.75 / 3)
    assert found.spread == pytest.approx(np.std([0.5, 0.75, 0.5], ddof=1))
    assert found.answer(1) == "right in 2 of 3 runs"
    assert group("A", 0.5, right=[[1, 1, 0, 0]]).answer(1) == "x"
    assert group("A", 0.5).spread is None


@pytest.mark.parametrize(
    ("best", "p", "expected"),
    [
        ("max", 0.01, "They differ, and B is better"),
        ("min", 0.01, "They differ, and A is better"),
        ("max", 0.2, "They do not differ"),
    ],
)
def test_the_verdict_is_one_sentence(best: Any, p: float, expected: str) -> None:
    common: Any = [None] * 1234
    found = Comparison(
        Metric("accuracy", "accuracy", "acc", best, percent=True),
        common,
        group("A", 0.5, right=[[1, 1, 0, 0]]),
        group("B", 0.75, right=[[1, 1, 0, 1]]),
        [SignificanceTest("first test", 0.001), SignificanceTest("second test", p)],
        (0.25, 0.1, 0.4),
        [],
        2,
        [],
        [],
        [],
        [],
    )
    assert found.verdict == (
        f"{expected}: on 1,234 pictures the accuracy of A is 50.00% and that of B 75.00% (first "
        f"test: p = 0.001 and second test: {shown_p(p)})."
    )


def test_the_metric_of_detectors_is_map() -> None:
    assert compared_metric(Detection(["a"], (8, 8)), "loss").name == "map"
