"""Whole runs under the torch backend, in processes of their own, and what both backends share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from cnnforge.backends import BatchPredictor, Trainer, prepare, pullback
from cnnforge.errors import CnnforgeError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.prediction.keras_model import load_model
from cnnforge.tasks.classification import Classification
from cnnforge.utils.environment import backend

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch")
if keras.backend.backend() != "torch":
    pytest.skip("the Keras backend is another one: make test-torch", allow_module_level=True)

# Runs each command of a JSON list with `cnnforge`; prints what each printed, and its exit code.
COMMANDS = """
import contextlib, io, json, sys
from cnnforge.cli import main
done = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    done.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
print(json.dumps({"done": done, "tensorflow": "tensorflow" in sys.modules}))
"""


def cnnforge(*commands: list[str], on: str = "torch") -> tuple[list[dict[str, Any]], bool]:
    """Run commands in a fresh process; what became of each, and whether TensorFlow was imported."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env={**os.environ, "KERAS_BACKEND": on},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["done"], found["tensorflow"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three classes: the third that is bright."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for label in range(3):
        (folder / f"class{label}").mkdir()
        for number in range(20):
            pixels = generator.integers(0, 100, (12, 12)).astype(np.uint8)
            pixels[4 * label : 4 * label + 4] += 120
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four epochs at once; two epochs and two more; and what the other commands say of them."""
    folder = tmp_path_factory.mktemp("runs")
    train = ["train", "--data", str(images), "--kernels", "numba", "--batch-size", "4", "--json"]
    whole, parts = str(folder / "whole"), str(folder / "parts")
    (first, second), _ = cnnforge(
        [*train, "--epochs", "4", "--output", whole], [*train, "--epochs", "2", "--output", parts]
    )
    assert (first["code"], second["code"]) == (0, 0), first["err"] + second["err"]
    runs = [Path(json.loads(it["out"])["run"]) for it in (first, second)]
    # The other half in another process.
    done, tensorflow = cnnforge(
        ["train", "--resume", str(runs[1]), "--epochs", "+2", "--json"],
        ["evaluate", str(runs[0]), "--json"],
        ["predict", str(runs[0]), str(images / "class1" / "00.png"), "--json"],
        ["doctor", "--json"],
    )
    assert [it["code"] for it in done] == [0] * 4, [it["err"] for it in done]
    names = ("resumed", "evaluation", "prediction", "doctor")
    found: dict[str, Any] = {n: json.loads(d["out"]) for n, d in zip(names, done, strict=True)}
    return {
        **found,
        "run": runs[0],
        "second": runs[1],
        "uninterrupted": json.loads(first["out"]),
        "tensorflow": tensorflow,
    }


def test_it_learns(trained: dict[str, Any]) -> None:
    assert trained["uninterrupted"]["validation"]["accuracy"] > 0.8
    assert trained["evaluation"]["accuracy"] > 0.8
    assert trained["prediction"]["predictions"][0]["label"] == "class1"


def test_a_resumed_run_is_the_uninterrupted_one(trained: dict[str, Any]) -> None:
    assert trained["resumed"]["weights"] == trained["uninterrupted"]["weights"]


def test_tensorflow_was_not_imported(trained: dict[str, Any]) -> None:
    assert not trained["tensorflow"]


def test_the_backend_is_named(trained: dict[str, Any]) -> None:
    assert backend() == {"name": "torch", "version": torch.__version__}
    facts = json.loads((trained["run"] / "environment.json").read_text())
    assert facts["backend"] == trained["doctor"]["backend"] == backend()
    assert trained["doctor"]["ops"].startswith("torch: ")


def test_the_kernels_were_used(trained: dict[str, Any]) -> None:
    chosen = json.loads((trained["run"] / "kernels.json").read_text())
    assert chosen
    assert {it["implementation"] for it in chosen} == {"numba"}


def test_a_model_opens_under_both_backends(
    trained: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    picture = str(images / "class2" / "03.png")
    predict = ["predict", str(trained["run"]), picture, "--top-k", "3", "--json"]
    theirs = str(tmp_path / "theirs")
    (ours, train), _ = cnnforge(
        predict,
        ["train", "--data", str(images), "--epochs", "1", "--output", theirs, "--json"],
        on="tensorflow",
    )
    assert (ours["code"], train["code"]) == (0, 0), ours["err"] + train["err"]
    run = json.loads(train["out"])["run"]
    with_torch, _ = cnnforge(predict, ["evaluate", run, "--json"])
    assert [it["code"] for it in with_torch] == [0, 0], [it["err"] for it in with_torch]
    first, second = (
        dict(json.loads(it["out"])["predictions"][0]["top"]) for it in (ours, with_torch[0])
    )
    assert first == pytest.approx(second, abs=1e-5)
    evaluation = json.loads(with_torch[1]["out"])
    assert evaluation["loss"] == pytest.approx(
        json.loads(train["out"])["validation"]["loss"], rel=1e-4
    )


def test_a_run_is_not_resumed_under_another_backend(trained: dict[str, Any]) -> None:
    resume = ["train", "--resume", str(trained["second"]), "--epochs", "+1"]
    ((done,), _) = cnnforge(resume, on="tensorflow")
    assert done["code"] == 2
    assert "has Keras backend = torch, not tensorflow" in done["err"]


# The step.


def build(**options: Any) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax", kernel_regularizer="l2", **options),
        ]
    )


TASK = Classification(("a", "b", "c"))


def batch(count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 6, 6, 1)).astype(np.uint8)
    images.flags.writeable = False  # As what was read from a file may be.
    return images, {"label": generator.integers(0, 3, count).astype(np.int32)}


def test_a_step_is_a_function_of_its_number_and_the_state() -> None:
    images, targets = batch(40)

    def part_of(part: slice) -> dict[str, np.ndarray]:
        return {name: it[part] for name, it in targets.items()}

    prepare(3)
    trainer = Trainer(build(), TASK, keras.optimizers.Adam(0.01), 8)
    whole = trainer.train(images, targets, {"loss": 1.0, "correct": 2.0})
    expected = trainer.arrays()
    # Whatever else draws random numbers, and however the steps are cut into chunks.
    prepare(3)
    first = Trainer(build(), TASK, keras.optimizers.Adam(0.01), 8)
    part = first.train(images[:24], part_of(slice(24)), {"loss": 1.0, "correct": 2.0})
    saved = first.arrays()
    prepare(3)
    second = Trainer(build(), TASK, keras.optimizers.Adam(0.01), 8)
    torch.rand(5)
    second.restore(saved)
    again = second.train(images[24:], part_of(slice(24, None)), part.sums)
    assert again == whole
    for a, b in zip(second.arrays(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_differs_from_step_to_step(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(3)
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Dropout(0.5)])
    trainer = Trainer(build(), TASK, keras.optimizers.Adam(0.01), 8)
    ones = torch.ones(1, 6, 6, 1)
    masks = []
    for step in (0, 1, 0):
        with trainer._seeded(step):
            masks.append(model(ones, training=True).numpy())
    np.testing.assert_array_equal(masks[0], masks[2])
    assert (masks[0] != masks[1]).any()
    # A second trainer of the run draws the same numbers.
    with Trainer(build(), TASK, keras.optimizers.Adam(0.01), 8)._seeded(0):
        masks.append(model(ones, training=True).numpy())
    np.testing.assert_array_equal(masks[0], masks[3])


def test_a_loss_that_is_not_finite_ends_the_chunk() -> None:
    images, targets = batch(24)
    prepare(0)
    model = build()
    trainer = Trainer(model, TASK, keras.optimizers.Adam(0.01), 8)
    trainer.train(images[:8], {"label": targets["label"][:8]}, {})
    model.layers[-1].kernel.assign(np.full((36, 3), np.nan, np.float32))
    steps = int(trainer._optimizer.iterations)
    result = trainer.train(images, targets, {})
    assert result.failed == 0
    assert int(trainer._optimizer.iterations) == steps + 1
    assert np.isnan(result.sums["loss"])


def test_a_state_of_another_model_is_refused() -> None:
    trainer = Trainer(build(), TASK, keras.optimizers.Adam(0.01), 8)
    with pytest.raises(CnnforgeError, match="saved by another model"):
        trainer.restore(trainer.arrays()[1:])
    arrays = trainer.arrays()
    with pytest.raises(CnnforgeError, match="holds"):
        trainer.restore([np.zeros((2, 2)), *arrays[1:]])


def test_a_frozen_variable_stays() -> None:
    images, targets = batch(16)
    prepare(0)
    model = build()
    model.layers[-1].kernel.trainable = False
    before = model.layers[-1].get_weights()
    Trainer(model, TASK, keras.optimizers.Adam(0.01), 8).train(images, targets, {})
    after = model.layers[-1].get_weights()
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).any()


def test_classification() -> None:
    images, _ = batch(21)
    model = build()
    expected = keras.ops.convert_to_numpy(model(images.astype(np.float32)))
    found = BatchPredictor(model, 8).predict(images)
    assert (found.dtype, found.shape) == (np.float32, (21, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert BatchPredictor(model, 8).predict(images[:0]).shape == (0, 3)


def test_memory_that_is_about_to_be_written_is_not_filled() -> None:
    prepare(0)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_pullback() -> None:
    layer = keras.layers.Dense(2, use_bias=False)
    layer.build((None, 3))
    inputs = torch.ones(4, 3)
    outputs, pull = pullback(layer, inputs)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    np.testing.assert_allclose(outputs, np.ones((4, 3)) @ kernel, rtol=1e-6)
    for factor in (1.0, 2.0):
        to_inputs, to_kernel = pull(torch.full((4, 2), factor))
        np.testing.assert_allclose(to_inputs, factor * np.ones((4, 2)) @ kernel.T, rtol=1e-6)
        np.testing.assert_allclose(to_kernel, np.full((3, 2), 4 * factor))
    assert not inputs.requires_grad


def test_a_model_file_of_tensorflow(tmp_path: Path, run_other: Callable[..., str]) -> None:
    path = tmp_path / "model.keras"
    source = """
import sys, json, keras, numpy as np
layers = keras.layers
model = keras.Sequential([
    keras.Input((8, 8, 2)), layers.Conv2D(4, 3, padding="same", strides=2),
    layers.BatchNormalization(), layers.MaxPooling2D(), layers.Dropout(0.5), layers.Flatten(),
    layers.Dense(3),
])
model.save(sys.argv[1])
images = np.random.default_rng(0).standard_normal((2, 8, 8, 2)).astype(np.float32)
print(json.dumps(model.predict(images, verbose=0).tolist()))
"""
    expected = json.loads(run_other(source, path).splitlines()[-1])
    model = load_model(path, Registry(LayerSpec))
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def run_other() -> Callable[..., str]:
    """Return `run(source, *arguments)`: Python in a process with the TensorFlow backend."""

    def run(source: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", source, *map(str, arguments)],
            env={**os.environ, "KERAS_BACKEND": "tensorflow"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run
