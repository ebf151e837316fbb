"""`cnnforge export`: the model of a run in other programs (T31, T32)."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main
from cnnforge.exporting import exporter, formats
from cnnforge.exporting.replay import Replay
from cnnforge.prediction.keras_model import load_model, outputs_of
from cnnforge.prediction.reference_predictions import (
    ReferencePredictions,
    write_reference_predictions,
)
from cnnforge.runs import RunDirectory
from cnnforge.tasks.detection.task import Detection

CLASSES = ("dark", "light")
SHAPE = (8, 8, 1)
layers = keras.layers
LAYERS = """
import keras


@keras.saving.register_keras_serializable("acme_export")
class Twice(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2


@keras.saving.register_keras_serializable("acme_export")
class OwnDense(keras.layers.Dense):
    pass


@keras.saving.register_keras_serializable("acme_export")
def plus_one(inputs):
    return inputs + 1
"""
PLUGIN = """
@hookimpl
def cnnforge_layers():
    return [
        LayerSpec(name="twice", target="acme_export_layers:Twice", summary="x2"),
        LayerSpec(
            name="dense",
            target="acme_export_layers:OwnDense",
            reference="keras.layers:Dense",
            summary="a dense layer",
        ),
    ]
"""


def small(middle: keras.layers.Layer | None = None) -> keras.Model:
    inputs = keras.Input(SHAPE, name="image")
    x = layers.Flatten()(layers.Conv2D(2, 3)(layers.Rescaling(1 / 255)(inputs)))
    x = middle(x) if middle is not None else x
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def complete(run: RunDirectory, model: keras.Model, shape: tuple[int, int, int] = SHAPE) -> Path:
    """Save a model in a run, with its reference predictions."""
    model.save(run.model)
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    write_reference_predictions(run, ReferencePredictions(images, outputs_of(model)(images)))
    return run.path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a classification, and its data. `copied` copies it."""
    folder = tmp_path_factory.mktemp("export")
    random = np.random.default_rng(3)
    for number in range(40):
        place = folder / "data" / CLASSES[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, SHAPE[:2], np.uint8) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place)
    run = RunDirectory.create(folder / "runs", "toy", "toy")
    run.write_config(
        {"model": "toy", "data": f"images:{folder / 'data'}"}, {"task": "cnnforge/classification"}
    )
    run.write_json("classes.json", list(CLASSES))
    keras.utils.set_random_seed(0)
    return complete(run, small())


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "runs" / "toy-001")
    monkeypatch.chdir(tmp_path)
    return Path("runs/toy-001")


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run .keras files in this process: for tests of all that is not the replay."""

    def replay(name: str, path: Path, images: np.ndarray) -> Replay:
        model = keras.saving.load_model(path, compile=False)
        return Replay({"output": np.asarray(outputs_of(model)(images)[0])}, 0.1)

    monkeypatch.setattr(exporter, "replay", replay)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("format", ["keras", "savedmodel", "plan"])
def test_t31_a_fresh_process_without_cnnforge_gives_the_outputs_of_the_run(
    format: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """T31: every format run in a fresh process without cnnforge: parity."""
    output = f"toy-001{formats.FORMATS[format].ending}"
    assert main(["export", str(run), "--format", format, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(Path(f"{output}.report.json").read_text(encoding="utf-8"))
    assert report["output"] == output
    size = Path(output).stat().st_size
    if format == "savedmodel":
        size = sum(path.stat().st_size for path in Path(output).rglob("*") if path.is_file())
    assert report["bytes"] == size
    assert report["classes"] == list(CLASSES)
    assert report["image_shape"] == list(SHAPE)
    assert list(report["outputs"].values()) == [[2]]
    assert report["note"] == ""
    for part, images in (("reference", 4), ("validation", 8)):
        assert report[part]["images"] == images
        assert report[part]["equal"] == images
        assert report[part]["flips"] == []
        assert report[part]["differences"]["probabilities"] < 1e-5
    assert left_over(Path()) == sorted(["runs", output, f"{output}.report.json"])


def test_t31_a_detector_gives_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """T31: the file of a detector takes pixels and returns boxes."""
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.create(tmp_path, "toy", "boxes")
    run.write_config({"model": "toy", "data": "coco:gone.json"}, {"task": "builtin/detection"})
    Detection(CLASSES, (32, 32), confidence=0.3, max_detections=7).write(run)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 1))
    maps = layers.Conv2D(6, 4, strides=4)(layers.Rescaling(1 / 255)(inputs))
    complete(run, keras.Model(inputs, maps), (32, 32, 1))
    assert main(["export", run.name, "--format", "keras", "--output", "b.keras"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("b.keras\n")
    assert "boxes" in captured.out
    assert "note: the data of the run cannot be read" in captured.err
    report = json.loads(Path("b.keras.report.json").read_text(encoding="utf-8"))
    assert set(report["outputs"]) == {"boxes", "classes", "confidences"}
    assert report["reference"]["equal"] == 4
    assert report["reference"]["differences"]["boxes"] < 1e-3
    assert report["settings"] == {"confidence": 0.3, "overlap": 0.5, "max_detections": 7}
    assert report["validation"] is None
    monkeypatch.setattr(formats, "find_spec", lambda name: True)
    assert main(["export", run.name, "--format", "litert", "--int8"]) == 2
    assert "--int8 is for classifications" in capsys.readouterr().err


def test_t32_a_layer_that_cannot_be_lowered(
    run: Path,
    write_plugin: Callable[..., str],
    tmp_path: Path,
    same_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """T32: a layer that cannot be lowered: exit 2, no file, the layer is named."""
    (tmp_path / "acme_export_layers.py").write_text(LAYERS, encoding="utf-8")
    plugin = write_plugin("acme_export", PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    from acme_export_layers import OwnDense, Twice, plus_one  # pyright: ignore[reportMissingImports]

    complete(RunDirectory(run), small(Twice(name="doubling")))
    before = left_over(tmp_path)
    for format in ("keras", "savedmodel", "plan"):
        assert main(["export", str(run), "--format", format, "--plugin", plugin]) == 2
        error = capsys.readouterr().err
        assert "the layer 'doubling' cannot be lowered" in error
        assert "acme_export_layers.Twice" in error
        assert error.count("\n") == 1
        assert left_over(tmp_path) == before
    # A layer that has a stock reference is lowered.
    complete(RunDirectory(run), small(OwnDense(3, name="own")))
    command = ["export", str(run), "--format", "keras", "--plugin", plugin]
    assert main(command) == 0
    lowered = keras.saving.load_model("toy-001.keras", compile=False)
    assert type(lowered.get_layer("own")) is keras.layers.Dense
    # A function of a plugin is code, too.
    complete(RunDirectory(run), small(layers.Dense(3, activation=plus_one, name="odd")))
    assert main([*command, "--force"]) == 2
    error = capsys.readouterr().err
    assert "the layer 'odd' cannot be lowered to stock Keras layers: acme_export>plus_one" in error


def test_an_older_export_is_replaced_only_with_force(
    run: Path, same_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.keras").write_bytes(b"older")
    command = ["export", str(run), "--format", "keras", "--output", "a.keras"]
    assert main(command) == 2
    assert "a.keras exists, and is not overwritten: add --force" in capsys.readouterr().err
    assert Path("a.keras").read_bytes() == b"older"
    assert main([*command, "--force"]) == 0
    assert keras.saving.load_model("a.keras", compile=False).output_shape == (None, 2)


def test_a_folder_is_replaced_only_if_it_is_a_saved_model(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    Path("mine/diary.txt").write_text("dear", encoding="utf-8")
    command = ["export", str(run), "--format", "savedmodel", "--output"]
    assert main([*command, "mine", "--force"]) == 2
    assert "is a folder that this format does not write" in capsys.readouterr().err

    def write(name, model, names, path, calibration):
        path.mkdir()
        (path / formats.SAVED_MODEL).write_text("new", encoding="utf-8")

    def replay(name, path, images):
        model = load_model(RunDirectory(run).model, {})  # pyright: ignore
        return Replay({"probabilities": outputs_of(model)(images)[0]}, 0.1)

    monkeypatch.setattr(exporter, "write_model", write)
    monkeypatch.setattr(exporter, "replay", replay)
    Path("old").mkdir()
    Path("old", formats.SAVED_MODEL).write_text("old", encoding="utf-8")
    assert main([*command, "old"]) == 2
    assert main([*command, "old", "--force"]) == 0
    assert Path("old", formats.SAVED_MODEL).read_text(encoding="utf-8") == "new"
    assert left_over(Path()) == ["mine", "old", "old.report.json", "runs"]


@pytest.mark.parametrize("apart", [0.01, np.nan])
def test_a_file_that_computes_something_else_is_not_kept(
    apart: float, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def replay(name: str, path: Path, images: np.ndarray) -> Replay:
        model = keras.saving.load_model(path, compile=False)
        return Replay({"output": outputs_of(model)(images)[0] + np.float32(apart)}, 0.1)

    monkeypatch.setattr(exporter, "replay", replay)
    assert main(["export", str(run), "--format", "keras"]) == 1
    error = capsys.readouterr().err
    assert "does not compute what the run computes" in error
    assert "nothing was written" in error
    assert left_over(Path()) == ["runs"]


def test_a_file_that_does_not_run_is_not_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporter, "_write_plan", lambda *given: given[-1].write_bytes(b"nothing"))
    assert main(["export", str(run), "--format", "plan"]) == 1
    error = capsys.readouterr().err
    assert "cnnforge_kernels cannot run the exported model without cnnforge" in error
    assert error.count("\n") == 1
    assert left_over(Path()) == ["runs"]


def test_a_full_disk(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter, "write_model", full)
    assert main(["export", str(run), "--format", "keras"]) == 1
    assert "toy-001.keras cannot be written: No space left on device" in capsys.readouterr().err
    assert left_over(Path()) == ["runs"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "--format", "tflite"], 2, "format"),
        (["RUN", "--format", "keras", "--int8"], 2, "--int8 is for --format litert"),
        (["RUN", "--format", "keras", "--output", "x.h5"], 2, "ends in .keras"),
        (["RUN", "--format", "plan", "--output", "no/x.npz"], 2, "there is no folder no"),
        (["RUN", "--format", "keras", "--output", "folder.keras"], 2, "is a folder that"),
        (["missing", "--format", "keras"], 2, "missing"),
        (["runs", "--format", "keras"], 2, "is a folder of runs"),
        (["RUN"], 2, "--format"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], code: int, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.keras").mkdir()
    before = left_over(Path())
    assert main(["export", *[str(run) if each == "RUN" else each for each in arguments]]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert left_over(Path()) == before


def test_a_run_without_a_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.remove(run / "model.keras")
    assert main(["export", str(run), "--format", "keras"]) == 1
    assert "has no model.keras: its training stopped" in capsys.readouterr().err
    assert left_over(Path()) == ["runs"]


@pytest.mark.parametrize(
    ("format", "missing", "install"),
    [
        ("onnx", "onnx and tf2onnx and onnxruntime", "pip install 'cnnforge[onnx]'"),
        ("litert", "ai-edge-litert", "pip install 'cnnforge[litert]'"),
    ],
)
def test_a_missing_package(
    format: str,
    missing: str,
    install: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert main(["export", str(run), "--format", format]) == 1
    error = capsys.readouterr().err
    assert f"--format {format} needs {missing}" in error
    assert install in error
    assert error.count("\n") == 1


def test_integers_need_data(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: True)
    directory = RunDirectory(run)
    options, table = directory.read_config()
    directory.write_config({**options, "data": "images:gone"}, table)
    assert main(["export", str(run), "--format", "litert", "--int8"]) == 2
    error = capsys.readouterr().err
    assert "--int8 calibrates with the validation images of the run" in error
    assert error.count("\n") == 1
