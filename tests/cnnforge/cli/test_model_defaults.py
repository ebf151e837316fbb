"""A model declares defaults of options; the user and a config file have precedence."""

import json
from pathlib import Path
from typing import Any

import pytest

from cnnforge.cli._train_options import defaults_for
from cnnforge.cli.app import main
from cnnforge.errors import UsageError
from cnnforge.plugin import ModelSpec

pytestmark = pytest.mark.usefixtures("quick_figures")

PLUGIN = """
import keras
from cnnforge.plugin import ModelSpec, hookimpl
CNNFORGE_PLUGIN_API = 1
@hookimpl
def cnnforge_models():
    return [ModelSpec(name="slow", target="slow_plugin:build", summary="",
                      defaults={"batch_size": 8, "learning_rate": 0.0625, "epochs": 3})]
def build(shape, classes):
    image = keras.Input(shape)
    flat = keras.layers.Flatten()(image)
    return keras.Model(image, keras.layers.Dense(classes, activation="softmax")(flat))
"""
OPTIONS = {
    "optimizer": "adamw",
    "learning_rate": 0.004,
    "weight_decay": 0.001,
    "schedule": "cosine",
    "warmup_epochs": 1,
}


def spec(**defaults: Any) -> ModelSpec:
    return ModelSpec(name="x", target="a:b", summary="", defaults=defaults)


@pytest.mark.parametrize(
    ("chosen", "left_out"),
    [
        ({}, ()),
        ({"learning_rate": 0.1}, ("learning_rate",)),
        ({"optimizer": "sgd"}, ("optimizer", "learning_rate", "weight_decay")),
        ({"schedule": "one_cycle"}, ("schedule", "warmup_epochs")),
        ({"epochs": 9}, ("warmup_epochs",)),
        ({"epochs": 10}, ()),
    ],
)
def test_the_user_has_precedence(chosen: dict[str, Any], left_out: tuple[str, ...]) -> None:
    expected = {name: value for name, value in OPTIONS.items() if name not in left_out}
    assert defaults_for(spec(**OPTIONS), chosen) == expected


def test_a_default_that_is_not_an_option_is_told() -> None:
    with pytest.raises(UsageError, match="defaults of the model x: there is no option 'rate'"):
        defaults_for(spec(rate=1), {})


def test_a_run_has_the_defaults_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow_plugin.py").write_text(PLUGIN)
    command = ["train", "slow", "--plugin", "slow_plugin.py", "--kernels", "keras"]
    assert main([*command, "--batch-size", "32", "--print-config", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["batch_size"] == {"value": 32, "origin": "command line"}
    assert shown["learning_rate"] == {"value": 0.0625, "origin": "model"}
    assert shown["seed"]["origin"] == "default"
    assert main(["train", "--print-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == {"value": 64, "origin": "default"}
    assert main([*command, "--epochs", "1", "--image-size", "8", "--output", "r"]) == 0
    capsys.readouterr()
    (run,) = (path for path in (tmp_path / "r").iterdir() if path.is_dir())
    stored = (run / "config.toml").read_text()
    assert "batch_size = 8\n" in stored
    assert "learning_rate = 0.0625\n" in stored
    # A resumed run keeps its values, and does not ask the model again.
    plugin = PLUGIN.replace('"batch_size": 8', '"batch_size": 16')
    (tmp_path / "slow_plugin.py").write_text(plugin)
    assert main(["train", "--resume", str(run), "--epochs", "2", "--print-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == {"value": 8, "origin": "config"}


def test_the_default_model_of_a_task_gives_its_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "boxes.json"
    data.write_text("{}")
    command = ["train", "--data", str(data), "--seed", "3", "--print-config", "--json"]
    assert main(command) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["optimizer"] == {"value": "adamw", "origin": "model"}
    assert shown["model"] == {"value": None, "origin": "default"}
