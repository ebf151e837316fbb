"""T31 in ONNX Runtime and LiteRT: `make test-export` runs these tests, others skip them."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from cnnforge.cli import main
from cnnforge.prediction.keras_model import outputs_of
from cnnforge.prediction.reference_predictions import (
    ReferencePredictions,
    write_reference_predictions,
)
from cnnforge.runs import RunDirectory
from cnnforge.tasks.detection.task import Detection

for _name in ("onnx", "tf2onnx", "onnxruntime", "ai_edge_litert"):
    pytest.importorskip(_name, exc_type=ImportError)

FORMATS = ("keras", "savedmodel", "onnx", "litert", "plan")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that was trained on digits, with 1,000 validation images."""
    folder = tmp_path_factory.mktemp("runs")
    command = ["train", "lenet", "--epochs", "1", "--kernels", "keras", "--output", str(folder)]
    assert main(command) == 0
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a detector that was not trained, and finds many objects."""
    run = RunDirectory.create(tmp_path_factory.mktemp("runs"), "toy", "boxes")
    run.write_config({"model": "toy", "data": "coco:gone.json"}, {"task": "builtin/detection"})
    Detection(("dark", "light"), (32, 32), confidence=0.3).write(run)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 1))
    maps = [
        keras.layers.Conv2D(6, stride, strides=stride)(keras.layers.Rescaling(1 / 255)(inputs))
        for stride in (4, 8)
    ]
    model = keras.Model(inputs, maps)
    model.save(run.model)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    write_reference_predictions(run, ReferencePredictions(images, outputs_of(model)(images)))
    return run.path


def exported(run: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["export", str(run), *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("format", FORMATS)
def test_t31_all_validation_images_have_the_same_class(
    format: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """T31: every format run in a fresh process without cnnforge: parity on 1,000 images."""
    monkeypatch.chdir(tmp_path)
    report = exported(run, "--format", format, capsys=capsys)
    assert report["validation"]["images"] == 1000
    assert report["validation"]["equal"] == 1000
    for part in ("reference", "validation"):
        assert report[part]["differences"]["probabilities"] < 1e-5


@pytest.mark.parametrize("format", FORMATS)
def test_t31_a_detector_gives_the_same_boxes(
    format: str,
    detector: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """T31: the boxes of a detector, too."""
    monkeypatch.chdir(tmp_path)
    report = exported(detector, "--format", format, capsys=capsys)
    assert report["reference"]["equal"] == 4
    assert report["reference"]["differences"]["boxes"] < 1e-3
    assert report["reference"]["differences"]["confidences"] < 1e-5


def test_integers_cost_at_most_one_point(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    large = exported(run, "--format", "litert", capsys=capsys)
    assert main(["export", str(run), "--format", "litert", "--int8"]) == 0
    assert "8-bit integers, calibrated with 200 validation images" in capsys.readouterr().err
    (path,) = tmp_path.glob("*-int8.tflite.report.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    cost = report["quantization"]
    assert cost["after"] >= cost["before"] - 0.01
    assert report["bytes"] < large["bytes"] / 3
    found = report["validation"]
    assert len(found["flips"]) == found["images"] - found["equal"]
    assert all(flip["before"] != flip["after"] for flip in found["flips"])
