"""`train --drop-duplicates`: the run, its split, its evaluation, and resuming it."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures import write_classes

from cnnforge.cli import main

pytestmark = pytest.mark.usefixtures("quick_figures")

PLUGIN = """
@hookimpl
def cnnforge_models():
    return [ModelSpec(name="flat", target="acme_flat_model:build", summary="one dense layer")]


def build(input_shape, classes):
    import keras

    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
"""
Train = Callable[..., dict[str, Any]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes with a copy within training, one in both splits, and one with two labels."""
    for split, count in (("train", 8), ("val", 4)):
        seed = 0 if split == "train" else 500
        write_classes(tmp_path / "photos" / split, {"cat": count, "dog": count}, seed)
    photos = tmp_path / "photos"
    shutil.copy(photos / "train/cat/0.png", photos / "train/cat/0 again.png")
    shutil.copy(photos / "train/cat/1.png", photos / "val/cat/leak.png")
    shutil.copy(photos / "train/dog/2.png", photos / "train/cat/wrong.png")
    return photos


@pytest.fixture
def train(write_plugin: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> Train:
    """Return `train(*options)`: the JSON that `cnnforge train` prints."""
    plugin = write_plugin("acme_flat_model", PLUGIN)

    def train(*options: str) -> dict[str, Any]:
        command = ["train", *options, "--plugin", plugin, "--json"]
        assert main(command) == 0
        return json.loads(capsys.readouterr().out)

    return train


def options(data: Path, tmp_path: Path, epochs: int = 1) -> list[str]:
    command = ["flat", "--data", str(data), "--kernels", "keras", "--batch-size", "4"]
    return [*command, "--epochs", str(epochs), "--output", str(tmp_path / "runs")]


def split_of(run: str) -> dict[str, set[str]]:
    with open(Path(run) / "split.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        part: {row["file"] for row in rows if row["split"] == part}
        for part in ("training", "validation", "left out")
    }


def test_the_leak_is_said_and_the_copies_stay(data, tmp_path, train):
    result = train(*options(data, tmp_path))
    assert any("1 of 9 validation images is an exact copy" in note for note in result["notes"])
    assert split_of(result["run"])["left out"] == set()
    assert result["found"]["images"] == {"training": 18, "validation": 9}


def test_copies_are_left_out(data, tmp_path, train, capsys):
    result = train(*options(data, tmp_path), "--drop-duplicates")
    note = "4 training images are left out: exact copies of others, 2 of them with different labels"
    assert note in result["notes"]
    assert not any("exact copy of a training" in note for note in result["notes"])
    split = split_of(result["run"])
    assert len(split["training"]) == 14
    assert len(split["validation"]) == 9
    assert split["left out"] == {
        "train/cat/0.png",
        "train/cat/1.png",
        "train/cat/wrong.png",
        "train/dog/2.png",
    }
    plugin = str(tmp_path / "acme_flat_model.py")
    assert main(["evaluate", result["run"], "--plugin", plugin, "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    # The evaluation measures the same images as the training.
    assert evaluation["found"]["images"] == {"used": 9}
    assert evaluation["accuracy"] == result["validation"]["accuracy"]
    assert any("3 of 27 images are left out: copies" in it for it in evaluation["found"]["notes"])


def test_a_resumed_run_gives_the_same_weights(data, tmp_path, train, capsys):
    whole = train(*options(data, tmp_path, 3), "--drop-duplicates")
    part = train(*options(data, tmp_path, 1), "--drop-duplicates")
    resumed = train("--resume", part["run"], "--epochs", "3")
    assert resumed["weights"] == whole["weights"]
    assert split_of(resumed["run"]) == split_of(whole["run"])
    assert main(["train", "--resume", part["run"], "--keep-duplicates", "--epochs", "4"]) == 2
    assert "has drop_duplicates = True, not False" in capsys.readouterr().err


def test_an_older_run_can_be_resumed(data, tmp_path, train):
    run = train(*options(data, tmp_path))["run"]
    config = Path(run) / "config.toml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "drop_duplicates" not in line))
    assert train("--resume", run, "--epochs", "2")["epochs"] == 2
