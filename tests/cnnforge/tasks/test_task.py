"""The parts that all tasks share."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnforge.data import AugmentedSamples, DataOptions, Dataset, open_dataset, transform_points
from cnnforge.errors import DataError, PluginError, UnknownNameError, UsageError
from cnnforge.plugin import DatasetSpec, ModelSpec, TaskSpec, hookimpl
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction import RunData, open_samples
from cnnforge.runs import RunDirectory
from cnnforge.tasks import (
    LOSS,
    Metric,
    Task,
    ValueRow,
    check_match,
    csv_table,
    is_better,
    open_task,
    task_for,
)
from cnnforge.tasks.metric import RESERVED_NAMES
from cnnforge.tasks.opening import task_of
from cnnforge.testing import dataset_checks
from cnnforge.training import EpochMetrics

ERROR = Metric("error", "error", "err", "min")
SHARE = Metric("share", "share", "share", percent=True)


class Points(Task):
    """Targets are two points in each image; the outputs, the same."""

    metrics = (LOSS, ERROR)
    monitor = "error"

    def targets(self, samples: Any, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        return {"points": samples.points[indices]}

    def transformed(
        self, targets: Mapping[str, np.ndarray], transforms: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        return {"points": transform_points(targets["points"], transforms)}

    def measure(self, targets: Mapping[str, np.ndarray], outputs: Any) -> Mapping[str, np.ndarray]:
        distance = np.abs(targets["points"] - outputs["points"]).mean(axis=(1, 2), dtype=float)
        return {"loss": distance**2, "error": distance}


class Marked:
    """Images of 5 x 6 pixels; each of the two points is the centre of a bright pixel."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(0)
        self.names = [str(number) for number in range(count)]
        self._pixels = np.stack(
            [random.integers(0, 5, (count, 2)), random.integers(0, 6, (count, 2))]
        )
        self.points = (self._pixels[::-1].transpose(1, 2, 0) + 0.5).astype(np.float32)

    def __len__(self) -> int:
        return len(self.names)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        images = np.zeros((len(indices), 5, 6, 1), np.uint8)
        rows, columns = self._pixels[:, indices]
        images[np.arange(len(indices))[:, None], rows, columns] = 255
        return images


def turned(images: np.ndarray, draws: Any) -> tuple[np.ndarray, np.ndarray]:
    """Half a turn: the last pixel becomes the first."""
    transforms = np.tile(np.float32([[-1, 0, 6], [0, -1, 5]]), (len(images), 1, 1))
    return images[:, ::-1, ::-1], transforms


def mirrored(images: np.ndarray, draws: Any) -> tuple[np.ndarray, np.ndarray]:
    transforms = np.tile(np.float32([[1, 0, 0], [0, -1, 5]]), (len(images), 1, 1))
    return images[:, ::-1], transforms


def inverted(images: np.ndarray, draws: Any) -> np.ndarray:
    return 255 - images


@pytest.mark.parametrize(
    "augmentations", [(), (turned,), (mirrored, inverted, turned), (inverted,)], ids=len
)
def test_targets_move_with_the_pixels(augmentations: tuple[Any, ...]) -> None:
    named = [(it.__name__, it) for it in augmentations]
    samples = AugmentedSamples(Marked(30), named, 0, 0) if named else Marked(30)
    images, targets = Points().read(samples, np.arange(5, 20))
    bright = images[..., 0] == (0 if inverted in augmentations else 255)
    assert len(targets["points"]) == 15
    for image, points in zip(bright, targets["points"], strict=True):
        x, y = points.T
        # The centre of the pixel in row r and column c is (c + 0.5, r + 0.5).
        assert image[(y - 0.5).astype(int), (x - 0.5).astype(int)].all()
        assert image.sum() == len({tuple(point) for point in points.tolist()})


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (np.zeros((3, 3, 3), np.float32), r"float32 of shape \(3, 3, 3\), expected float32 of"),
        (np.zeros((3, 2, 3)), r"float64 of shape \(3, 2, 3\), expected float32 of"),
        (None, "a NoneType, expected float32 of shape"),
    ],
)
def test_transforms_of_another_form_are_refused(transforms: Any, message: str) -> None:
    samples = AugmentedSamples(Marked(9), [("acme/it", lambda i, _: (i, transforms))], 0, 0)
    with pytest.raises(PluginError, match=f"'acme/it' returned {message}"):
        samples.fetch(np.arange(3))


def test_the_mean_is_that_of_all_samples_however_they_were_cut() -> None:
    samples, found = Marked(30), []
    dataset = Dataset("marked", (), samples, samples, "", task="points")
    outputs = np.random.default_rng(1).random((30, 2, 2)).astype(np.float32)
    for size in (30, 7):
        evaluator = Points().evaluator(dataset, samples, np.arange(30))
        for first in range(0, 30, size):
            evaluator.add({"points": outputs[first : first + size]})
        found.append(evaluator.result())
    assert found[0] == found[1]
    expected = np.abs(samples.points.astype(float) - outputs).mean()
    assert found[0].metrics["error"] == pytest.approx(expected)
    assert found[0].samples == 30


@pytest.mark.parametrize(
    ("metric", "new", "best", "better"),
    [
        (SHARE, (0.9, 1.0), None, True),
        (SHARE, (0.9, 1.0), (0.8, 0.1), True),
        (SHARE, (0.8, 0.1), (0.9, 1.0), False),
        (SHARE, (0.9, 0.9), (0.9, 1.0), True),
        (SHARE, (0.9, 1.0), (0.9, 1.0), False),
        (LOSS, (0.1, 0.9), (0.9, 1.0), True),
        (LOSS, (0.9, 1.1), (0.1, 1.0), False),
    ],
)
def test_the_better_epoch(metric: Metric, new: Any, best: Any, better: bool) -> None:
    def values(pair: Any) -> dict[str, float] | None:
        return pair and {"share": pair[0], "loss": pair[1]}

    assert is_better(metric, values(new) or {}, values(best)) is better


def test_the_smaller_error_is_the_better_one() -> None:
    assert is_better(ERROR, {"error": 1, "loss": 9}, {"error": 2, "loss": 1})


@pytest.mark.parametrize("metric", [ERROR, SHARE], ids=lambda metric: metric.best)
def test_nan_is_worse_than_every_number(metric: Metric) -> None:
    nan, number = ({metric.name: value, "loss": 1.0} for value in (float("nan"), 0.5))
    assert is_better(metric, number, nan)
    assert not is_better(metric, nan, number)
    assert not is_better(metric, nan, nan)
    assert is_better(metric, {**nan, "loss": 0.5}, nan)


def test_an_unknown_metric_is_named() -> None:
    assert Points().monitored() is ERROR
    assert Points().monitored("loss") is LOSS
    with pytest.raises(UnknownNameError, match="no metric named 'eror' to monitor; did you mean"):
        Points().monitored("eror")
    with pytest.raises(UnknownNameError, match="there are: loss, error"):
        Points().monitored("beauty")


def test_metrics_as_text() -> None:
    assert (SHARE.text(0.12345), LOSS.text(1 / 3)) == ("12.35%", "0.3333")


def test_a_table_has_the_columns_that_rows_have() -> None:
    rows = [
        ValueRow("a", error="empty file"),
        ValueRow("b", {"angle": 1 / 3, "true_angle": 2}),
    ]
    table = csv_table(rows, ("angle",))
    assert table == "file,angle,true_angle,error\na,,,empty file\nb,0.3333333,2,\n"
    assert csv_table([], ("angle",)) == "file,angle\n"
    assert rows[1].shown() == {"angle": "0.3333", "true angle": "2"}
    assert rows[0].as_dict() == {"file": "a", "error": "empty file"}


class Acme:
    @hookimpl
    def cnnforge_tasks(self) -> list[TaskSpec]:
        target = f"{__name__}:Points"
        return [
            TaskSpec(name="points", target=target, summary=""),
            TaskSpec(name="number", target="math:pi", summary=""),
        ]

    @hookimpl
    def cnnforge_models(self) -> list[ModelSpec]:
        kinds = {"plain": "classification", "marker": "points", "lost": "pionts"}
        return [
            ModelSpec(name=name, target="x:y", summary="", task=task)
            for name, task in kinds.items()
        ]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(**globals()))
    found = Plugins()
    found.register(Acme(), "acme")
    return found


def test_the_task_of_a_dataset(plugins: Plugins) -> None:
    dataset = Dataset("marked", (), Marked(3), Marked(3), "", task="points")
    assert isinstance(task_for(dataset, plugins.tasks, {}), Points)
    message = "label_smoothing is not an option of the task 'points', which marked is for: leave"
    with pytest.raises(UsageError, match=message):
        task_for(dataset, plugins.tasks, {"label_smoothing": 0.1})
    number = Dataset("x", (), Marked(3), Marked(3), "", task="number")
    with pytest.raises(PluginError, match="must be a subclass of cnnforge"):
        task_for(number, plugins.tasks, {})


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ((ERROR,), "'acme/points' has no loss: add cnnforge.tasks.LOSS"),
        ((LOSS, Metric("epoch", "", "")), "has a metric named 'epoch': use another name"),
        ((LOSS, Metric("samples", "", "")), "has a metric named 'samples'"),
        ((LOSS, Metric("val_loss", "", "", sum="error")), "has a metric named 'val_loss'"),
        ((LOSS, Metric("speed", "", "", sum="seconds")), "has a sum named 'seconds'"),
        ((LOSS, ERROR, ERROR), "has two metrics named 'error': rename one"),
    ],
)
def test_metrics_that_would_damage_a_state_are_refused(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, metrics: Any, message: str
) -> None:
    monkeypatch.setattr(Points, "metrics", metrics)
    dataset = Dataset("marked", (), Marked(3), Marked(3), "", task="points")
    with pytest.raises(PluginError, match=message):
        task_for(dataset, plugins.tasks, {})
    run = RunDirectory.create(tmp_path, "marker", "marked")
    run.write_config({}, {"task": "acme/points"})
    with pytest.raises(PluginError, match=message):
        open_task(run, plugins.tasks)


def test_the_fixed_columns_of_an_epoch_are_reserved() -> None:
    assert {field.name for field in fields(EpochMetrics)} - {"values"} <= set(RESERVED_NAMES)


def test_the_metrics_of_an_epoch_are_also_items() -> None:
    row = EpochMetrics(2, {"loss": 0.5, "val_loss": 0.75}, 0.01, 3.0, 100.0)
    assert row["val_loss"] == row.val_loss == 0.75
    assert row["epoch"] == 2
    assert "loss" in row
    assert "acc" not in row
    with pytest.raises(KeyError, match="this epoch has no 'acc'; it has epoch, loss, val_loss, le"):
        _ = row["acc"]


def test_the_core_has_a_classification_without_any_plugin() -> None:
    assert list(Plugins().tasks) == ["cnnforge/classification"]
    with pytest.raises(PluginError, match="named 'cnnforge' is already loaded"):
        Plugins().register(Acme(), "cnnforge")


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        ("plain", "points", r"'classification', and X is for 'points': choose .* \(marker\), or"),
        ("marker", "number", "'points', and X is for 'number': no model is for it, or"),
        ("lost", "points", "no task named 'pionts'; did you mean 'points'"),
        ("marker", "pionts", "no task named 'pionts'; did you mean 'points'"),
    ],
)
def test_a_model_of_another_task_than_the_data(
    plugins: Plugins, model: str, task: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_match(plugins.models[model], "X", task, plugins.models, plugins.tasks)


def test_a_plugin_with_a_task_of_the_same_name_leaves_the_default_task_alone(
    plugins: Plugins, tmp_path: Path
) -> None:
    class Other:
        @hookimpl
        def cnnforge_tasks(self) -> list[TaskSpec]:
            return [TaskSpec(name="classification", target=f"{__name__}:Points", summary="")]

        @hookimpl
        def cnnforge_models(self) -> list[ModelSpec]:
            return [
                ModelSpec(name="common", target="x:y", summary=""),
                ModelSpec(name="own", target="x:y", summary="", task="other/classification"),
            ]

    plugins.register(Other(), "other")
    marked = Marked(3)
    assert Dataset("a", ("x",), marked, marked, "").task == "cnnforge/classification"
    run = RunDirectory.create(tmp_path, "common", "a")
    run.write_config({}, {})
    assert task_of(run) == "cnnforge/classification"
    models, tasks = plugins.models, plugins.tasks
    check_match(
        models["common"], "X", DatasetSpec(name="a", target="x:y", summary="").task, models, tasks
    )
    message = "'other/classification', and X is for 'cnnforge/classification': choose .*(common)"
    with pytest.raises(UsageError, match=message):
        check_match(models["own"], "X", models["common"].task, models, tasks)


class Twin:
    """A second plugin with a task of the name `points`."""

    @hookimpl
    def cnnforge_tasks(self) -> list[TaskSpec]:
        return [TaskSpec(name="points", target=f"{__name__}:Points", summary="")]

    @hookimpl
    def cnnforge_datasets(self) -> list[DatasetSpec]:
        target = f"{__name__}:load_marked"
        return [
            DatasetSpec(name="right", target=target, summary="", task="acme/points"),
            DatasetSpec(name="wrong", target=target, summary="", task="twin/points"),
        ]


def load_marked(argument: str | None, options: DataOptions) -> Dataset:
    return Dataset("marked", (), Marked(3), Marked(3), "", task="acme/points")


def test_tasks_of_two_plugins_with_one_short_name_are_two_tasks(plugins: Plugins) -> None:
    plugins.register(Twin(), "twin")
    datasets, tasks = plugins.datasets, plugins.tasks
    assert open_dataset("right", datasets, None, tasks).task == "acme/points"
    with pytest.raises(DataError, match="declared for the task 'twin/points' and returned one"):
        open_dataset("wrong", datasets, None, tasks)
    (wrong,) = [check.run for check in dataset_checks("wrong", plugins) if check.kind == "loads"]
    with pytest.raises(AssertionError, match="for the task 'acme/points', and its spec says"):
        wrong()
    shape = load_marked(None, DataOptions()).image_shape
    run = RunData("x", 0.2, 0, "", task="acme/points")
    assert len(open_samples("right", shape, datasets, run, tasks=tasks)) == 3
    run = RunData("x", 0.2, 0, "", task="twin/points")
    with pytest.raises(UsageError, match=r"for the task 'acme/points', and the model .*'twin/poin"):
        open_samples("right", shape, datasets, run, tasks=tasks)


def test_a_model_of_the_same_task_by_another_name(plugins: Plugins) -> None:
    spec = plugins.models["marker"]
    check_match(spec, "X", "acme/points", plugins.models, plugins.tasks)
