"""Time limits, several seeds, TensorBoard, a test part, and the check of a finished run."""

import json
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnforge.cli import main

pytestmark = pytest.mark.usefixtures("quick_figures")

PLUGIN = '''
"""A small model, data with a test part, and a layer on kernels of its own."""

import os
from dataclasses import replace

import keras
import numpy as np

from cnnforge.plugin import DatasetSpec, LayerSpec, ModelSpec, hookimpl


@hookimpl
def cnnforge_models():
    return [ModelSpec(name="small", target="acme_long:build", summary="one dense layer")]


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="toy", target="acme_long:load", summary="stripes")]


@hookimpl
def cnnforge_layers():
    return [
        LayerSpec(
            name="relu", target="acme_long:ReLU", summary="ReLU", reference="keras.layers:ReLU"
        )
    ]


@keras.saving.register_keras_serializable("acme")
class ReLU(keras.layers.ReLU):
    def call(self, inputs):
        return super().call(inputs) * float(os.environ.get("ACME_FACTOR", "1"))


def build(input_shape, classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(8),
            layers.ReLU(),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def stripes(count, seed):
    labels = np.arange(count) % 3
    images = np.random.default_rng(seed).integers(0, 120, (count, 6, 6, 1))
    for image, label in zip(images, labels):
        image[2 * label : 2 * label + 2] += 100
    return images.astype(np.uint8), labels, [f"{seed} {number}" for number in range(count)]


def load(argument, options):
    from cnnforge.data import ArraySamples, dataset_from_arrays

    images, labels, names = stripes(60, int(os.environ.get("ACME_SEED", "0")))
    dataset = dataset_from_arrays(
        "toy", images, labels, names=names, classes=["a", "b", "c"], options=options
    )
    if argument == "test":
        return replace(dataset, test=ArraySamples(*stripes(21, 99)))
    return dataset
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "acme_long.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(scope="module")
def finished(plugin: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of one epoch; to be left as it is."""
    output = tmp_path_factory.mktemp("finished")
    arguments = ["train", "small", "--data", "toy", "--kernels", "keras", "--epochs", "1"]
    assert main([*arguments, "--output", str(output), "--plugin", plugin]) == 0
    return str(output / "small-toy-001")


class Said:
    """The exit code of a command, its JSON, and the lines on stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Said]


@pytest.fixture
def command(plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return `command(*arguments)`: run it with the plugin; `train` has options in front."""

    def run(*arguments: str, code: int = 0) -> Said:
        first, *others = arguments
        if first == "train" and "--resume" not in others:
            output = str(tmp_path / "runs")
            others = ["small", "--data", "toy", "--kernels", "keras", "--output", output, *others]
        capsys.readouterr()
        found = main([first, *others, "--plugin", plugin])
        captured = capsys.readouterr()
        assert found == code, captured.err
        return Said(found, captured.out, captured.err)

    return run


def clock(monkeypatch: pytest.MonkeyPatch, module: str = "cnnforge.cli._training") -> list[int]:
    """Make the time of the limit jump: it is over at the call with the number in the list."""
    calls, last = [0], [10**9]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            calls[0] += 1
            return 0.0 if calls[0] < last[0] else 1e12

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

    monkeypatch.setattr(f"{module}.time", Clock())
    return last


def test_a_time_limit_ends_training_and_the_run_goes_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--epochs", "4", "--batch-size", "8")
    whole = command("train", *options, "--json").json
    with monkeypatch.context() as patch:
        patch.setattr("cnnforge.data.prefetch.MAX_BYTES", 1)
        clock(patch)[0] = 20
        half = command("train", *options, "--json", "--time-limit", "1h")
    assert 0 < half.json["epochs"] < 4
    assert half.json["validation"]["accuracy"] > 0
    run = half.json["run"]
    number = half.json["epochs"] + 1
    assert f"the time limit is reached in epoch {number} of 4; the state is saved" in half.err
    assert f"go on with 'cnnforge train --resume {run}'" in half.err
    assert (Path(run) / "evaluation.json").is_file()
    rest = command("train", "--resume", run, "--json", "--time-limit", "1h")
    assert rest.json["weights"] == whole["weights"]
    assert "time limit" not in rest.err


def test_a_time_limit_before_the_first_epoch_is_done(command: Command) -> None:
    said = command("train", "--time-limit", "0.001s", "--json")
    assert "in epoch 1 of 20, before the first epoch was done, so there is no model yet" in said.err
    found = [said.json[name] for name in ("epochs", "best_epoch", "validation")]
    assert found == [0, None, None]
    run = said.json["run"]
    assert command("train", "--resume", run, "--json", "--epochs", "1").json["epochs"] == 1
    assert command("train", "--time-limit", "0.001s").out == ""


def test_a_wrong_time_limit_is_refused_at_once(command: Command, tmp_path: Path) -> None:
    said = command("train", "--time-limit", "30", code=2)
    assert "--time-limit must be a time such as 90s, 30m, 2h or 1h30m, got '30'" in said.err
    assert not (tmp_path / "runs").exists()


def test_several_seeds_on_one_split(command: Command, tmp_path: Path) -> None:
    options = ("--epochs", "2", "--seed", "3", "--split-seed", "1")
    said = command("train", *options, "--repeat", "3", "--json")
    found = said.json
    assert found["metric"] == "accuracy"
    values = [run["validation"]["accuracy"] for run in found["runs"]]
    assert found["validation"]["mean"] == pytest.approx(np.mean(values))
    assert found["validation"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert len({run["weights"] for run in found["runs"]}) == 3
    configs = [
        tomllib.loads((Path(run["run"]) / "config.toml").read_text()) for run in found["runs"]
    ]
    assert [config["seed"] for config in configs] == [3, 4, 5]
    assert {config["split_seed"] for config in configs} == {1}
    # Each run is the one that its own options give.
    alone = command("train", "--config", f"{found['runs'][1]['run']}/config.toml", "--json").json
    assert alone["weights"] == found["runs"][1]["weights"]


def test_repeated_runs_go_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--epochs", "3", "--batch-size", "8", "--repeat", "2")
    with monkeypatch.context() as patch:
        patch.setattr("cnnforge.data.prefetch.MAX_BYTES", 1)
        # In the second run.
        clock(patch)[0] = 45
        half = command("train", *options, "--time-limit", "1h", "--json")
    assert "type the same command again to go on with all runs" in half.err
    assert [run["epochs"] == 3 for run in half.json["runs"]] == [True, False]
    assert half.json["validation"]["std"] is None
    said = command("train", *options)
    first, second = (run["run"] for run in half.json["runs"])
    assert f"run 1 of 2: seed 0, which {first} has" in said.err
    assert "all 3 epochs are done" in said.err
    assert f"run 2 of 2: seed 1, which {second} has" in said.err
    assert len(list((tmp_path / "runs").iterdir())) == 2
    words = [line.split() for line in said.out.splitlines()]
    assert [line[0] for line in words if line] == ["seed", words[1][0], "0", "1", "mean", "std"]
    # Other options are other runs, and so are other data.
    command("train", "--epochs", "1", "--repeat", "2")
    assert len(list((tmp_path / "runs").iterdir())) == 4
    monkeypatch.setenv("ACME_SEED", "5")
    said = command("train", "--epochs", "1", "--repeat", "2")
    assert "note: a new run takes the place of" in said.err
    assert len(list((tmp_path / "runs").iterdir())) == 6


class Stop:
    """A signal that has arrived."""

    name, exit_code = "SIGTERM", 143

    def __enter__(self) -> "Stop":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self) -> bool:
        return True


def test_an_interrupted_repetition_says_how_to_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnforge.training.StopOnSignal", Stop)
    said = command("train", "--repeat", "2", "--time-limit", "0.001s", code=143)
    assert "interrupted by SIGTERM; the state is saved" in said.err
    assert said.err.rstrip().endswith("type the same command again to go on with all runs")
    assert "time limit" not in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repeat", "2", "--resume", "RUN"), "--repeat starts new runs, and --resume continues"),
        (("--repeat", "0"), "should be greater than or equal to 1, got '0'"),
        (("--repeat", "2", "--seed", str(2**32 - 1)), "seed must be 0 to 4294967295"),
    ],
)
def test_wrong_repetitions(
    command: Command, finished: str, tmp_path: Path, arguments, message
) -> None:
    said = command("train", *(finished if it == "RUN" else it for it in arguments), code=2)
    assert message in said.err
    assert not (tmp_path / "runs").exists()
    assert len(list(Path(finished).parent.glob("small-*"))) == 1


def events(run: str) -> list[tuple[int, dict[str, float]]]:
    import tensorflow as tf

    (path,) = (Path(run) / "tensorboard").iterdir()
    _, *found = tf.compat.v1.train.summary_iterator(str(path))
    return [
        (event.step, {value.tag: value.simple_value for value in event.summary.value})
        for event in found
    ]


def test_tensorboard(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = command("train", "--epochs", "2", "--tensorboard", "--json")
    run = said.json["run"]
    assert f"TensorBoard shows the curves: tensorboard --logdir {run}; it is not" in said.err
    assert "pip install 'cnnforge[tensorboard]'" in said.err
    found = events(run)
    assert [step for step, _ in found] == [1, 2]
    header, first, _ = (Path(run) / "metrics.csv").read_text().splitlines()
    row = dict(zip(header.split(","), map(float, first.split(",")), strict=True))
    assert found[0][1].keys() == row.keys() - {"epoch"}
    assert found[0][1]["val_loss"] == pytest.approx(row["val_loss"], rel=1e-5)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    said = command("train", "--resume", run, "--epochs", "+1")
    assert "it is not installed" not in said.err
    assert [step for step, _ in events(run)] == [1, 2, 3]


def test_tensorboard_may_begin_later(command: Command) -> None:
    run = command("train", "--epochs", "1", "--json").json["run"]
    assert not (Path(run) / "tensorboard").exists()
    command("train", "--resume", run, "--epochs", "2", "--tensorboard")
    assert [step for step, _ in events(run)] == [1, 2]


def test_a_test_part_is_evaluated_at_the_end(command: Command, tmp_path: Path) -> None:
    plain = command("train", "--epochs", "2", "--json")
    said = command("train", "--epochs", "2", "--data", "toy:test", "--json")
    # It changes nothing else.
    assert said.json["weights"] == plain.json["weights"]
    assert "test" not in plain.json
    test = said.json["test"]
    assert test["samples"] == 21
    assert said.json["found"]["images"] == {"training": 48, "validation": 12, "test": 21}
    assert "48 for training, 12 for validation, 21 for test" in said.err
    run = Path(said.json["run"])
    report = json.loads((run / "evaluation.json").read_text())
    assert report["test"] == test
    assert report["validation"] == said.json["validation"]
    lines = command("train", "--resume", str(run)).out.splitlines()
    names = [line.split()[0] for line in lines[2:5]]
    assert names == ["training", "validation", "test"]
    validation = command("evaluate", str(run), "--json").json
    assert validation["samples"] == said.json["validation"]["samples"] == 12
    assert validation["data"] == "the validation part of toy"
    again = command("evaluate", str(run), "--part", "test", "--json").json
    assert again["samples"] == 21
    assert again["loss"] == pytest.approx(test["loss"])
    assert again["data"] == "the test part of toy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--part", "test"),
            "error: toy has no test part, such as a sub-folder named test: leave out",
        ),
        (("--part", "tests"), "part must be validation or test, got 'tests'; did you mean 'test'?"),
    ],
)
def test_a_part_that_is_not_there(command: Command, finished: str, arguments, message) -> None:
    assert message in command("evaluate", finished, *arguments, code=2).err


def test_verify(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    said = command("train", "--epochs", "1", "--kernels", "numba", "--json")
    run = said.json["run"]
    (line,) = [line for line in said.err.splitlines() if line.startswith("kernels: ")]
    assert "re_lu" in line.partition(" run on ")[0]
    passed = command("verify", run, "--json").json
    assert passed["passed"] is True
    providers = {layer["provider"] for layer in passed["layers"]}
    assert providers == {"acme_long/relu", "builtin/dense"}
    assert "passed" in command("verify", run).out
    monkeypatch.setenv("ACME_FACTOR", "1.01")
    failed = command("verify", run, code=1)
    assert "FAILED" in failed.out
    assert "the kernels of 1 of 3 layers differ from the stock layers: re_lu" in failed.err
    assert "--kernels keras" in failed.err
    failed = command("verify", run, "--json", code=1)
    assert failed.json["passed"] is False


def test_verify_of_a_model_without_kernels(command: Command, finished: str) -> None:
    assert "no layer of the model runs on Numba kernels" in command("verify", finished).out
    found = command("verify", finished, "--json").json
    assert found.pop("plan").startswith("differs from Keras by ")
    assert found == {"run": finished, "passed": True, "layers": []}


def test_verify_of_nothing(command: Command, tmp_path: Path) -> None:
    assert "there is no run" in command("verify", str(tmp_path / "gone"), code=2).err


def test_presets_and_mixed_images(command: Command) -> None:
    options = ("--epochs", "3", "--augment", "light", "--augment", "mixup", "--augment", "cutmix")
    options = (*options, "--label-smoothing", "0.1", "--class-weights", "balanced")
    whole = command("train", *options, "--json").json
    config = tomllib.loads((Path(whole["run"]) / "config.toml").read_text())
    assert config["augment"] == ["flip", "shift:0.1", "mixup", "cutmix"]
    half = command("train", *options, "--json", "--epochs", "1").json
    resumed = command("train", "--resume", half["run"], "--epochs", "3", "--json").json
    assert resumed["weights"] == whole["weights"]
    # Given again, a preset is what the run has.
    command("train", "--resume", half["run"], *options[2:6], "--augment", "cutmix", "--epochs", "3")
    said = command("train", "--resume", half["run"], "--augment", "strong", code=2)
    assert "augment" in said.err
    plain = command("train", *options[:2], "--augment", "none", "--json").json
    assert plain["weights"] != whole["weights"]
