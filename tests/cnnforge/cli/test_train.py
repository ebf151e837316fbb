"""`train`, `evaluate` and `predict`, from the command line to the files."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnnforge.cli import main
from cnnforge.runs import RunDirectory
from cnnforge.training.state import StateStore

pytestmark = pytest.mark.usefixtures("quick_figures")

PLUGIN = '''
"""A small model and small data."""

import os
import time

from cnnforge.plugin import DatasetSpec, ModelSpec, hookimpl


@hookimpl
def cnnforge_models():
    return [ModelSpec(name="small", target="acme_toy:build", summary="one convolution")]


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="toy", target="acme_toy:load", summary="stripes")]


def build(input_shape, classes):
    import keras

    layers = keras.layers
    if input_shape[0] < 3:
        raise ValueError(f"images must be 3 pixels high, got {input_shape[0]}")
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 255),
            layers.Conv2D(3, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def load(argument, options):
    import numpy as np

    from cnnforge.data import ArraySamples, dataset_from_arrays

    class Slow(ArraySamples):
        def fetch(self, indices):
            time.sleep(float(os.environ.get("TOY_DELAY", "0")))
            return super().fetch(indices)

    generator = np.random.default_rng(int(argument or os.environ.get("TOY_SEED", "0")))
    height, width = options.image_size or (6, 6)
    labels = np.arange(60) % 3
    images = generator.integers(0, 120, (60, height, width, 1))
    for image, label in zip(images, labels):
        image[2 * label : 2 * label + 2] += 100
    dataset = dataset_from_arrays(
        f"toy:{argument}" if argument else "toy",
        images.astype(np.uint8),
        labels,
        names=[f"toy {number}" for number in range(60)],
        classes=["top", "middle", "bottom"],
        options=options,
    )
    from dataclasses import replace

    part = dataset.train
    return replace(dataset, train=Slow(part.fetch(np.arange(len(part))), part.labels, part.names))
'''

OPTIONS = ("--data", "toy", "--kernels", "keras", "--batch-size", "8", "--learning-rate", "0.02")


PROGRAM = "import sys; from cnnforge.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "acme_toy.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(scope="module")
def trained(plugin: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs; to be left as it is."""
    runs = tmp_path_factory.mktemp("runs")
    command = ["train", "small", *OPTIONS, "--epochs", "4", "--plugin", plugin]
    assert main([*command, "--output", str(runs)]) == 0
    return runs / "small-toy-001"


@pytest.fixture
def train(plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Return `train(*arguments)`: a run in `tmp_path`, of which it returns the JSON."""

    def train(*arguments: str, code: int = 0) -> dict:
        command = ["train", "small", *OPTIONS, "--plugin", plugin, "--output", str(tmp_path)]
        if "--resume" in arguments:
            command = ["train"]
        capsys.readouterr()
        assert main([*command, *arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return train


def error_of(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    return line


def test_a_run_leaves_its_files(trained: Path, plugin: str) -> None:
    assert sorted(os.listdir(trained)) == [
        "classes.json",
        "config.toml",
        "confusion_matrix.csv",
        "confusion_matrix.png",
        "curves.png",
        "data.json",
        "environment.json",
        "evaluation.json",
        "kernel_check.json",
        "kernels.json",
        "last",
        "metrics.csv",
        "model.keras",
        "plan.json",
        "plan.npz",
        "plugins.json",
        "predictions.csv",
        "reference_predictions.npz",
        "report.html",
        "split.csv",
        "thumbnails.npz",
    ]
    config = tomllib.loads((trained / "config.toml").read_text())
    assert config["plugin"] == [plugin]
    assert config["run"]["model"] == "acme_toy/small"
    assert json.loads((trained / "classes.json").read_text()) == ["top", "middle", "bottom"]
    metrics = (trained / "metrics.csv").read_text().splitlines()
    assert metrics[0] == (
        "epoch,loss,accuracy,val_loss,val_accuracy,val_balanced_accuracy,val_macro_f1,"
        "learning_rate,seconds,images_per_second,waiting"
    )
    assert len(metrics) == 5
    assert len((trained / "predictions.csv").read_text().splitlines()) == 13
    assert (trained / "report.html").read_text().count("<img") >= 12
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["data_fingerprint"] == config["run"]["fingerprint"]
    assert {"name": "acme_toy", "source": plugin, "distribution": None, "version": None} in (
        environment["plugins"]
    )
    kernels = json.loads((trained / "kernels.json").read_text())
    assert {row["implementation"] for row in kernels} <= {"keras"}


def test_the_model_opens_with_plain_keras(trained: Path) -> None:
    import keras

    model = keras.saving.load_model(trained / "model.keras")
    modules = {type(layer).__module__.partition(".")[0] for layer in model.layers}
    assert modules == {"keras"}


def test_resumed_equals_uninterrupted(train: Callable[..., dict], tmp_path: Path) -> None:
    whole = train("--epochs", "3")
    half = train("--epochs", "1")
    assert half["run"].endswith("small-toy-002")
    resumed = train("--resume", half["run"], "--epochs", "+2")
    assert resumed["weights"] == whole["weights"] != half["weights"]
    assert resumed["validation"] == whole["validation"]
    assert resumed["epochs"] == 3
    again = train("--resume", half["run"])
    assert again == resumed
    rerun = train("--config", f"{half['run']}/config.toml")
    assert rerun["weights"] == whole["weights"]


def test_a_run_that_is_being_trained_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    run = RunDirectory.create(tmp_path, "lenet", "mnist5k")
    run.write_config({"model": "lenet"}, {"cnnforge": "0.1.0"})
    files = sorted(run.path.iterdir())
    with run.claimed():
        error = error_of(capsys, 1, "train", "--resume", str(run.path))
    assert "another process is training the run" in error
    assert sorted(run.path.iterdir()) == files


@pytest.mark.parametrize("faster", ["numba", "keras"])
def test_a_resumed_run_keeps_the_kernels_that_were_chosen(
    plugin: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    faster: str,
) -> None:
    from cnnforge.conversion import autotune

    def measure(workload: Any, training: bool) -> tuple[autotune.Choice, float]:
        return chosen, 0.0

    monkeypatch.setattr(autotune, "default_cache_file", lambda: tmp_path / "choices.json")
    monkeypatch.setattr(autotune, "_measure", measure)
    command = ["train", "lenet", "--data", "toy", "--plugin", plugin, "--output", str(tmp_path)]
    chosen = autotune.Choice("keras", 0.5, seconds=(2.0, 1.0))
    if faster == "numba":
        chosen = autotune.Choice("numba", 2.0, seconds=(1.0, 2.0))
    assert main([*command, "--epochs", "2", "--json"]) == 0
    whole, said = capsys.readouterr()
    assert ("the framework is faster at 3 Dropout, 2 Conv2D, 2 MaxPooling2D, 2 Dense" in said) == (
        faster == "keras"
    )
    assert main([*command, "--epochs", "1", "--json"]) == 0
    half = json.loads(capsys.readouterr().out)["run"]
    kernels = json.loads((Path(half) / "kernels.json").read_text())
    names = ["conv1", "pool1", "dropout1", "conv2", "pool2", "dropout2"]
    names += ["dense", "dropout3", "probabilities"]
    assert [it["layer"] for it in kernels] == names
    assert {it["implementation"] for it in kernels} == {faster}
    assert {it["reason"] for it in kernels} == {"measured"}
    # Measured again, the other one would be faster.
    (tmp_path / "choices.json").unlink()
    chosen = autotune.Choice("numba", 2.0, seconds=(1.0, 2.0))
    if faster == "numba":
        chosen = autotune.Choice("keras", 0.5, seconds=(2.0, 1.0))
    assert main(["train", "--resume", half, "--epochs", "+1", "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert resumed["weights"] == json.loads(whole)["weights"]
    assert json.loads((Path(half) / "kernels.json").read_text()) == kernels
    (Path(half) / "kernels.json").write_text("[{}]")
    error = error_of(capsys, 1, "train", "--resume", half, "--epochs", "+1")
    assert "so the kernels of this run are unknown" in error
    assert f"--init-from {half}" in error


RECIPE = (
    *("--optimizer", "sgd", "--momentum", "0.9", "--weight-decay", "0.001", "--clip-norm", "1"),
    *("--schedule", "cosine", "--warmup-epochs", "1", "--ema", "0.8"),
)


def test_a_recipe_is_recorded_and_repeated(
    train: Callable[..., dict], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train("--epochs", "3", *RECIPE)
    run = Path(whole["run"])
    config = tomllib.loads((run / "config.toml").read_text())
    names = ("optimizer", "momentum", "weight_decay", "clip_norm", "schedule", "warmup_epochs")
    assert [config[name] for name in names] == ["sgd", 0.9, 0.001, 1.0, "cosine", 1]
    assert (config["ema"], config["learning_rate"]) == (0.8, 0.02)
    rows = [row.split(",") for row in (run / "metrics.csv").read_text().splitlines()]
    rates = [float(row[rows[0].index("learning_rate")]) for row in rows[1:]]
    # 6 steps in an epoch: the warm-up, and half a cosine of 12 steps.
    assert rates == pytest.approx([0.02, 0.02 * 0.62941, 0.02 * 0.017037], rel=1e-4)
    assert train("--config", f"{run}/config.toml")["weights"] == whole["weights"]
    # What is saved is the average, which is what was validated.
    assert main(["evaluate", str(run), "--kernels", "keras", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(
        whole["validation"]["loss"], rel=1e-4
    )
    for arguments, expected in (
        (("--epochs", "+1"), "has epochs = 3, not 4, and schedule = cosine"),
        (("--epochs", "2"), "has epochs = 3, not 2, and schedule = cosine"),
        (("--schedule", "step"), "has schedule = cosine, not step"),
        (("--ema", "0.9"), "has ema = 0.8, not 0.9"),
    ):
        line = error_of(capsys, 2, "train", "--resume", str(run), *arguments)
        assert expected in line
        assert f"--init-from {run}" in line
    assert main(["train", "--resume", str(run)]) == 0
    said = capsys.readouterr().err
    assert f"all 3 epochs are done; for a new run from its weights use --init-from {run}" in said
    assert said.endswith(f"to use the model, type: cnnforge predict {run} IMAGES\n")


def test_a_step_schedule_is_extended(train: Callable[..., dict]) -> None:
    whole = train("--epochs", "3", "--schedule", "step:1")
    half = train("--epochs", "1", "--schedule", "step:1")
    resumed = train("--resume", half["run"], "--epochs", "+2")
    assert resumed["weights"] == whole["weights"]


def test_runs_with_other_seeds_share_their_split(
    train: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for number, seeds in enumerate([(1, 5), (2, 5), (5, 5), (1, 6)], 1):
        train("--epochs", "1", "--seed", str(seeds[0]), "--split-seed", str(seeds[1]))
        table = tomllib.loads((tmp_path / f"small-toy-{number:03d}" / "config.toml").read_text())
        assert (table["seed"], table["split_seed"]) == seeds
        found[seeds] = table["run"]["fingerprint"]
    assert found[1, 5] == found[2, 5] == found[5, 5] != found[1, 6]
    run = tmp_path / "small-toy-001"
    # The validation part is found again, and not all samples.
    assert main(["evaluate", str(run), "--kernels", "keras", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 12


def test_a_run_from_before_there_were_these_options_is_resumed(train: Callable[..., dict]) -> None:
    whole = train("--epochs", "3")
    half = train("--epochs", "1")
    run = Path(half["run"])
    config, old = run / "config.toml", []
    new = ("split_seed", "optimizer", "schedule", "warmup_epochs")
    for line in config.read_text().splitlines():
        if line.partition(" ")[0] not in new:
            old.append(line)
    assert len(config.read_text().splitlines()) == len(old) + len(new)
    config.write_text("\n".join(old) + "\n")
    store = StateStore(run / "last")
    state, _ = store.load()
    assert state is not None
    kept = {name: value for name, value in state.config.items() if name not in new}
    store.save(replace(state, config=kept))
    resumed = train("--resume", str(run), "--epochs", "3")
    assert resumed["weights"] == whole["weights"]


EXTENSIONS = (
    "--callback",
    "halve_on_plateau:1",
    "--callback",
    "early_stopping",
    "--augment",
    "shift",
)


def test_callbacks_and_augmentations_are_recorded_and_resumed(
    train: Callable[..., dict], tmp_path: Path
) -> None:
    whole = train("--epochs", "3", *EXTENSIONS, "--augment", "flip")
    config = tomllib.loads((Path(whole["run"]) / "config.toml").read_text())
    assert config["callback"] == ["halve_on_plateau:1", "early_stopping"]
    assert config["augment"] == ["shift", "flip"]
    assert config["run"]["callbacks"] == ["builtin/halve_on_plateau:1", "builtin/early_stopping"]
    assert config["run"]["augmentations"] == ["builtin/shift", "builtin/flip"]
    half = train("--epochs", "1", *EXTENSIONS, "--augment", "flip")
    resumed = train("--resume", half["run"], "--epochs", "3")
    assert resumed["weights"] == whole["weights"] != half["weights"]
    again = train("--config", f"{whole['run']}/config.toml")
    assert again["weights"] == whole["weights"]
    plain = train("--epochs", "3", "--callback", "early_stopping", "--augment", "shift")
    assert plain["weights"] != whole["weights"]


def test_a_note_about_letters_that_are_flipped(train: Callable[..., dict], tmp_path: Path) -> None:
    for name, color in (("a", 0), ("b", 200)):
        (tmp_path / "letters" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.new("L", (6, 6), color + number)
            image.putpixel((0, 0), 255)
            image.save(tmp_path / "letters" / name / f"{number}.png")
    given = ("--data", str(tmp_path / "letters"), "--epochs", "1", "--augment", "light")
    notes = train(*given)["notes"]
    assert any("do not flip them left to right, but train with --augment shift" in n for n in notes)


def test_a_stopped_run_is_finished_and_goes_on_with_more_epochs(
    train: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "acme_brake.py"
    path.write_text(BRAKE)
    brake = ("--plugin", str(path), "--callback", "brake:2")
    assert train("--epochs", "5", *brake)["epochs"] == 2
    run = str(tmp_path / "small-toy-001")
    assert main(["train", "--resume", run]) == 0
    err = capsys.readouterr().err
    assert f"stopped after epoch 2: enough; to continue, use --resume {run} --epochs +10" in err
    assert "epoch 3" not in err
    assert train("--resume", run, "--epochs", "+1")["epochs"] == 6


BRAKE = """
from cnnforge.callbacks import Callback
from cnnforge.plugin import CallbackSpec, hookimpl


@hookimpl
def cnnforge_callbacks():
    return [CallbackSpec(name="brake", target="acme_brake:Brake", summary="stops")]


class Brake(Callback):
    def __init__(self, argument):
        self.last = int(argument)

    def epoch_ended(self, epoch):
        if epoch.metrics.epoch == self.last:
            epoch.stop("enough")
"""


def test_latest_is_the_newest_run(
    train: Callable[..., dict],
    plugin: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    output = ["--output", "runs"]
    first, second = (train("--epochs", "1", "--seed", seed, *output)["run"] for seed in "12")
    os.utime(Path(first) / "metrics.csv", (9e9, 9e9))
    assert main(["evaluate", "latest", "--kernels", "keras", "--plugin", plugin]) == 0
    assert f"the newest run is {first}" in capsys.readouterr().err
    assert main(["predict", "runs/latest", "toy", "--kernels", "keras", "--plugin", plugin]) == 0
    assert f"the newest run is {first}" in capsys.readouterr().err
    third = train("--epochs", "1", "--init-from", "latest", "--seed", "1", *output)["run"]
    assert RunDirectory(Path(third)).read_config()[0]["init_from"] == first
    assert main(["train", "--resume", "latest", "--epochs", "+1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == first
    assert main(["runs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert {row["run"]: (row["state"], row["epochs"]) for row in rows} == {
        first: ("finished", 2),
        second: ("finished", 1),
        third: ("finished", 1),
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.keras", r"there is no file missing\.keras; 'cnnforge runs'"),
        ("missing", "there is no run missing"),
    ],
)
def test_init_from_names_what_it_takes(
    name: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "missing" not in name:
        (tmp_path / name).touch()
    assert main(["train", "--init-from", name]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_resumed_run_keeps_its_configuration(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value, name in (
        ("--batch-size", "16", "batch_size"),
        ("--seed", "5", "seed"),
        ("--learning-rate", "1", "learning_rate"),
    ):
        line = error_of(capsys, 2, "train", "--resume", str(trained), option, value)
        assert f"has {name} = " in line
        assert "--init-from" in line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clip_norm = 0.001", "has clip_norm = None, not 0.001"),
        ("ema = 0.9", "has ema = None, not 0.9"),
        ('monitor = "loss"', "has monitor = None, not loss"),
    ],
)
def test_an_edited_configuration_is_not_resumed(
    trained: Path, tmp_path: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = run / "config.toml"
    config.write_text(f"{line}\n{config.read_text()}")
    assert message in error_of(capsys, 2, "train", "--resume", str(run), "--epochs", "+1")


def test_a_run_without_the_model_of_its_best_epoch_is_not_trained(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "model.keras").unlink()
    before = (run / "metrics.csv").read_text()
    error = error_of(capsys, 1, "train", "--resume", str(run), "--epochs", "+1")
    assert "has no model.keras: the file was removed, or was not copied" in error
    assert (run / "metrics.csv").read_text() == before


def test_a_command_in_a_message_quotes_the_run(
    plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "my runs"
    command = ["train", "small", *OPTIONS, "--epochs", "1", "--plugin", plugin]
    assert main([*command, "--output", str(runs)]) == 0
    line = capsys.readouterr().err.splitlines()[-1]
    typed = shlex.split(line.partition("type: ")[2])
    assert typed == ["cnnforge", "predict", str(runs / "small-toy-001"), "IMAGES"]


def test_changed_data_is_not_resumed(
    train: Callable[..., dict],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Path(train("--epochs", "1")["run"])
    monkeypatch.setenv("TOY_SEED", "9")
    line = error_of(capsys, 2, "train", "--resume", str(run))
    assert f"the data toy are not those of the run {run}: 60 images were changed (" in line
    monkeypatch.delenv("TOY_SEED")
    line = error_of(capsys, 2, "train", "--resume", str(run), "--data", "mnist5k")
    assert "the data mnist5k are not those of the run" in line
    assert "5000 images were added (mnist5k " in line


def test_init_from_takes_weights_only(
    trained: Path, train: Callable[..., dict], capsys: pytest.CaptureFixture[str]
) -> None:
    warm = train("--epochs", "1", "--init-from", str(trained), "--seed", "7")
    cold = train("--epochs", "1", "--seed", "7")
    assert warm["validation"]["loss"] < cold["validation"]["loss"]
    record = json.loads((Path(warm["run"]) / "initial_weights.json").read_text())
    assert len(record["taken"]) == 8
    assert record["source"] == str(trained)
    assert not (Path(cold["run"]) / "initial_weights.json").exists()


def test_init_from_says_what_it_takes(
    trained: Path, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "small", *OPTIONS, "--plugin", plugin, "--image-size", "9x9"]
    command += ["--epochs", "1", "--output", str(tmp_path), "--init-from", str(trained)]
    assert main(command) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert f"note: took 6 of 8 weights from {trained}; new: " in text
    assert f"with --image-size 6x6, as in {trained}, more layers fit" in text


def test_a_resumed_run_takes_no_initial_weights_again(
    trained: Path, train: Callable[..., dict], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("--epochs", "1", "--init-from", str(trained))["run"]
    capsys.readouterr()
    assert main(["train", "--resume", run, "--epochs", "+1"]) == 0
    assert "took" not in capsys.readouterr().err
    assert (Path(run) / "initial_weights.json").exists()


def test_a_model_that_does_not_fit_into_memory_leaves_no_run(
    plugin: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cnnforge.training import setup

    monkeypatch.setattr(setup, "available_memory", lambda: 2_000_000)
    command = ["train", "small", *OPTIONS, "--plugin", plugin, "--image-size", "600x600"]
    line = error_of(capsys, 2, *command, "--output", str(tmp_path / "runs"))
    assert "the model 'small' has 3.2 million parameters for images of 600x600x1" in line
    assert line.endswith("of memory, and 2 MB are available: give --image-size 28x28")
    assert not (tmp_path / "runs").exists()


def test_the_default_size_is_bounded_by_the_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnforge.training import setup

    for number in range(8):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((90, 60), 80).convert("RGB").save(folder / f"{number}.png")
    monkeypatch.setattr(setup, "available_memory", lambda: 60_000_000)
    command = ["train", "lenet", "--data", str(tmp_path / "photos")]
    command += ["--kernels", "keras", "--epochs", "1"]
    assert main([*command, "--output", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["found"]["image_shape"] == [30, 45, 3]
    reason = "the images are smaller than by default, because lenet for 60x90x3 images"
    assert any(note.startswith(reason) for note in result["notes"])
    assert "data: 8 images of 30x45x3" in captured.err
    assert main(["train", "--resume", result["run"], "--epochs", "+1"]) == 0
    # The user's own size is not changed.
    line = error_of(capsys, 2, *command, "--image-size", "600x900", "--output", str(tmp_path))
    assert "are available: give --image-size" in line


def test_a_run_records_its_size(trained: Path) -> None:
    size = json.loads((trained / "environment.json").read_text())["size"]
    # 3 x 3 x 3 + 3 of the convolution, 12 of the normalization, 48 x 3 + 3 of the dense layer.
    assert size["parameters"] == 189
    assert size["batch_size"] == 8


def test_wrong_requests_end_with_two_and_a_line(
    plugin: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("batchsize = 3")
    small = ("train", "small", "--plugin", plugin, "--data", "toy", "--output", str(tmp_path / "r"))
    for arguments, expected in (
        (("train", "lenett"), "did you mean 'lenet'"),
        (("train", "--data", "mnist5"), "did you mean 'mnist5k'"),
        (("train", "--kernels", "cuda"), "auto, numba or keras"),
        (("train", "--optimizer", "admw"), "did you mean 'adamw'"),
        (("train", "--momentum", "0.9"), "adam takes no momentum, got 0.9"),
        (("train", "--momentum", "x"), "--momentum"),
        (("train", "--schedule", "cosin"), "did you mean 'cosine'"),
        (("train", "--warmup-epochs", "9", "--epochs", "9"), "less than epochs, which is 9"),
        (("train", "--epochs", "+5"), "--resume RUN"),
        (("train", "--callback", "early_stoping"), "did you mean 'early_stopping'?"),
        (("train", "--callback", "early_stopping:0"), "1 or more, got '0'"),
        (("train", "--augment", "shift", "--augment", "shift"), "is given twice"),
        (("train", "--epochs", "0"), "epochs must be"),
        (("train", "--batch-siz", "3"), "--batch-size"),
        (("train", "--config", str(config)), "did you mean 'batch_size'"),
        (("train", "--config", "missing.toml"), "cannot be read"),
        (("train", "--resume", str(tmp_path)), "is not a run directory"),
        ((*small, "--image-size", "2x2"), "cannot be built for images of 2x2x1: images must be"),
    ):
        assert expected in error_of(capsys, 2, *arguments)
    assert not (tmp_path / "r").exists()


def test_print_config_names_the_origins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text("epochs = 3\nseed = 1\n")
    assert main(["train", "--config", str(config), "--seed", "2", "--print-config"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split("  #") for line in printed.splitlines()]
    origins = {line[0].split(" =")[0].strip(): line[-1].strip() for line in lines}
    assert (origins["epochs"], origins["seed"], origins["kernels"]) == (
        "config",
        "command line",
        "default",
    )
    # The model is chosen later, so there is only a comment.
    assert origins["# model"] == "default"
    assert tomllib.loads(printed)["seed"] == 2
    assert main(["train", "--print-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == {"value": 20, "origin": "default"}


def test_print_config_refuses_the_epochs_that_train_refuses(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    command = ["train", "--print-config", "--resume", str(run)]
    assert main([*command, "--epochs", "+10"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["epochs"] == 14
    config = run / "config.toml"
    text = config.read_text().replace('schedule = "constant"', 'schedule = "cosine"')
    assert text != config.read_text()
    config.write_text(text)
    message = "has epochs = 4, not 14, and schedule = cosine"
    assert message in error_of(capsys, 2, *command, "--epochs", "+10")
    assert main([*command, "--epochs", "4"]) == 0


def test_evaluate(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnforge.cli.evaluate._MAX_SHOWN", 1)
    assert main(["evaluate", str(trained), "--kernels", "keras", "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["samples"] == 12
    assert main(["evaluate", str(trained), "--kernels", "keras", "--data", "toy:1"]) == 0
    captured = capsys.readouterr().out
    assert "toy:1: accuracy" in captured
    assert [line.split()[-1] for line in captured.splitlines()[-3:]] == ["20", "20", "20"]
    # On a terminal, a table of many classes is cut.
    monkeypatch.setattr("cnnforge.cli._render.is_terminal", lambda: True)
    assert main(["evaluate", str(trained), "--kernels", "keras", "--data", "toy:1"]) == 0
    captured = capsys.readouterr()
    assert [line.split()[-1] for line in captured.out.splitlines()[-1:]] == ["20"]
    assert "2 more rows; all are in the result of --json, or of 'cnnforge evaluate" in captured.err
    line = error_of(capsys, 2, "evaluate", str(trained), "--kernels", "gpu")
    assert "auto, numba or keras" in line


def test_predict_agrees_with_the_runs_own_table(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    command = ["predict", str(trained), "toy", "--kernels", "keras"]
    assert main([*command, "--output", str(table)]) == 0
    assert table.read_text() == (trained / "predictions.csv").read_text()
    assert "of 12 correct" in capsys.readouterr().err
    assert (
        main(
            [
                *command,
                "--output",
                str(tmp_path / "t.json"),
                "--limit",
                "2",
                "--top-k",
                "1",
                "--json",
            ]
        )
        == 0
    )
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert len(rows) == 2
    assert len(rows[0]["top"]) == 1
    assert json.loads((tmp_path / "t.json").read_text()) == rows


def test_predict_files(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_text("<html>")
    assert main(["predict", str(trained), str(tmp_path), "--kernels", "keras", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert [Path(row["file"]).name for row in rows] == ["bad.jpg", "good.png"]
    assert [row["error"] is None for row in rows] == [False, True]
    code = main(["predict", str(trained), str(tmp_path / "bad.jpg"), "--kernels", "keras"])
    captured = capsys.readouterr()
    assert code == 1
    assert "not an image" in captured.out
    assert "error: the image could not be read" in captured.err
    line = error_of(capsys, 2, "predict", str(trained), "x.png", "--output", "x.txt")
    assert "--output writes .csv or .json" in line


def test_predictions_are_not_lost_with_their_file(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    command = ["predict", str(trained), "toy", "--kernels", "keras", "--limit", "2"]
    # Before anything is computed, or even looked for.
    wrong = ["predict", str(trained), "no_such_input", "--output"]
    assert "there is no folder" in error_of(capsys, 2, *wrong, str(tmp_path / "no" / "x.csv"))
    (tmp_path / "x.csv").mkdir()
    assert "is a folder" in error_of(capsys, 2, *wrong, str(tmp_path / "x.csv"))

    def full(path, parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnforge.utils.atomic_files.write_parts", full)
    assert main([*command, "--output", str(tmp_path / "y.csv")]) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].endswith("y.csv could not be written: No space left on device")
    assert out.count("%") >= 2


ACCESSORIES = (
    "metrics.csv",
    "predictions.csv",
    "evaluation.json",
    "confusion_matrix.csv",
    "confusion_matrix.png",
    "curves.png",
)


def _report_again(run: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Write the files of a finished run again, and return the warnings."""
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 0
    err = capsys.readouterr().err
    return [line for line in err.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("names", [ACCESSORIES, *[[name] for name in ACCESSORIES]])
def test_a_file_that_cannot_be_written_costs_no_other(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for name in (*ACCESSORIES, "report.html"):
        (run / name).unlink()
    for name in names:
        (run / name).mkdir()
    warnings = _report_again(run, capsys)
    # The report is made from these two.
    without_report = bool({"metrics.csv", "evaluation.json"} & set(names))
    if without_report:
        assert warnings.pop().startswith("warning: report.html of the run could not be written: ")
    assert (run / "report.html").is_file() != without_report
    assert len(warnings) == len(names)
    for name, warning in zip(names, warnings, strict=True):
        assert warning == (
            f"warning: {name} of the run could not be written: Is a directory; the model is "
            f"saved; to write it again, type 'cnnforge train --resume {run}'"
        )
    assert all((run / name).is_file() for name in ACCESSORIES if name not in names)
    if names != ACCESSORIES:
        return
    # Once there is nothing in the way, all are written.
    for name in names:
        (run / name).rmdir()
    assert _report_again(run, capsys) == []
    assert all((run / name).is_file() for name in ACCESSORIES)


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        ("cnnforge.training.session", "training_curves", "curves.png"),
        ("cnnforge.tasks.confusion", "confusion_matrix", "confusion_matrix.png"),
        ("cnnforge.training.session", "write_report", "report.html"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_a_warning(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    function: str,
    name: str,
) -> None:
    def broken(*arguments: Any, **more: Any) -> None:
        raise ImportError("libfreetype.so.6 is missing")

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = (run / name).read_bytes()
    monkeypatch.setattr(f"{module}.{function}", broken)
    (warning,) = _report_again(run, capsys)
    assert warning.startswith(f"warning: {name} of the run could not be written: ImportError: lib")
    assert (run / name).read_bytes() == before


@pytest.mark.parametrize("output", [[], ["--json"]])
def test_a_stdout_that_is_full_does_not_cost_a_training(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    output: list[str],
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        assert main(["train", "--resume", str(run), *output]) == 0
        rows = tmp_path / "rows.csv"
        assert main(["predict", str(run), "toy", "--output", str(rows), *output]) == 0
        assert main(["predict", str(run), "toy", *output]) == 1
    lines = capsys.readouterr().err.splitlines()
    warning = "warning: the result could not be printed on stdout: No space left on device; "
    assert f"{warning}everything is saved in the run directory {run}" in lines
    assert f"{warning}the rows are in {rows}" in lines
    assert lines[-1].startswith("error: the result could not be written to stdout: No space left")
    assert rows.read_text().startswith("file,label,probability")


SMOOTHED = ("--label-smoothing", "0.1", "--class-weights", "balanced", "--monitor", "macro_f1")


def test_the_options_of_a_classification_are_recorded_and_resumed(
    train: Callable[..., dict], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train("--epochs", "3")
    whole = train("--epochs", "3", *SMOOTHED)
    half = train("--epochs", "1", *SMOOTHED)
    resumed = train("--resume", half["run"], "--epochs", "3")
    assert resumed["weights"] == whole["weights"] != plain["weights"]
    assert resumed["best_epoch"] == whole["best_epoch"]
    config = tomllib.loads((Path(half["run"]) / "config.toml").read_text())
    assert [config[name] for name in ("label_smoothing", "class_weights", "monitor")] == [
        0.1,
        "balanced",
        "macro_f1",
    ]
    report = json.loads((Path(whole["run"]) / "evaluation.json").read_text())
    assert report["monitor"] == "macro_f1"
    assert report["validation"] == whole["validation"]
    again = train("--config", f"{half['run']}/config.toml", "--epochs", "3")
    assert again["weights"] == whole["weights"]
    line = error_of(capsys, 2, "train", "--resume", half["run"], "--monitor", "loss")
    assert "has monitor = macro_f1, not loss" in line
    line = error_of(capsys, 2, "train", "--resume", half["run"], "--label-smoothing", "0.2")
    assert "has label_smoothing = 0.1, not 0.2" in line


def test_the_best_epoch_follows_the_monitor(train: Callable[..., dict]) -> None:
    for monitor, sign in (("loss", -1), ("balanced_accuracy", 1)):
        found = train("--epochs", "4", "--monitor", monitor)
        with (Path(found["run"]) / "metrics.csv").open() as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        best = max(rows, key=lambda row: (sign * row[f"val_{monitor}"], -row["val_loss"]))
        assert found["best_epoch"] == best["epoch"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--monitor", "acuracy", "no metric named 'acuracy' to monitor; did you mean 'accuracy'?"),
        ("--label-smoothing", "1", "label_smoothing must be 0 or more and less than 1, got 1.0"),
        ("--class-weights", "equal", "class_weights must be 'balanced', got 'equal'"),
    ],
)
def test_options_that_have_no_meaning(
    plugin: str, tmp_path: Path, capsys: Any, option: str, value: str, message: str
) -> None:
    small = ("train", "small", "--plugin", plugin, "--data", "toy", "--output", str(tmp_path / "r"))
    assert message in error_of(capsys, 2, *small, option, value)
    assert not (tmp_path / "r").exists()


def test_an_epoch_is_a_line_that_begins_with_its_number(
    plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "small", *OPTIONS, "--plugin", plugin, "--output", str(tmp_path)]
    assert main([*command, "--epochs", "3"]) == 0
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in out.splitlines() if "%" in line] == [
        "training",
        "validation",
    ]


def test_a_size_that_a_model_does_not_accept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "acme_sizes.py"
    path.write_text(SIZES)
    command = ("train", "fixed", "--plugin", str(path), "--output", str(tmp_path / "r"))
    line = error_of(capsys, 2, *command)
    assert (
        "the model 'fixed' accepts images of 32x32 or 64x48, and those of mnist5k are 28x28" in line
    )
    assert line.endswith("give --image-size 32x32")


SIZES = """
from cnnforge.plugin import ModelSpec, hookimpl


@hookimpl
def cnnforge_models():
    sizes = ((32, 32), (64, 48))
    return [ModelSpec(name="fixed", target="acme_sizes:build", summary="", sizes=sizes)]
"""
