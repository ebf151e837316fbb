"""The task in training, evaluation and prediction, with a network of two layers."""

import csv
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from detection_samples import Samples, one, samples
from PIL import Image

import cnnforge
from cnnforge.cli import main
from cnnforge.data import AugmentedSamples, Dataset
from cnnforge.errors import DataError, RunError, UsageError
from cnnforge.runs import RunDirectory
from cnnforge.tasks.detection import Detection

PLUGIN = str(Path(__file__).with_name("spots_plugin.py"))
OPTIONS = ("--data", "spots", "--kernels", "keras", "--batch-size", "8", "--learning-rate", "0.01")
PROGRAM = "import sys; from cnnforge.cli import main; sys.exit(main())"
FILES = (
    *("detection.json", "per_class.csv", "pr_curve.csv", "pr_curve.png", "errors.csv"),
    *("confusion_matrix.csv", "confusion_matrix.png", "validation.png", "labels.png"),
    *("curves.png", "predictions.csv", "evaluation.json"),
)


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Return `train(*arguments)`: a run in `tmp_path`, of which it returns the JSON."""

    def train(*arguments: str, model: str = "spotter") -> dict:
        command = ["train", model, *OPTIONS, "--plugin", PLUGIN, "--output", str(tmp_path)]
        if "--resume" in arguments:
            command = ["train"]
        capsys.readouterr()
        assert main([*command, *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return train


def test_it_trains_evaluates_and_predicts(
    train: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = train("--epochs", "12", "--data", "spots:128")
    run = Path(found["run"])
    assert found["validation"]["map50"] > 0.3
    table = tomllib.loads((run / "config.toml").read_text())["run"]
    assert table["task"] == "builtin/detection"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:9] == [
        *("epoch", "loss", "heat_loss", "box_loss"),
        *("val_loss", "val_heat_loss", "val_box_loss", "val_map50", "val_map"),
    ]
    for row in rows:
        parts = float(row["heat_loss"]) + float(row["box_loss"])
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-5)
    assert not [name for name in FILES if not (run / name).is_file()]
    report = json.loads((run / "evaluation.json").read_text())
    assert report["validation"] == found["validation"]
    assert report["monitor"] == "map"
    assert set(report["validation"]["by_size"]) == {"small", "medium", "large"}
    settings = json.loads((run / "detection.json").read_text())
    assert settings["classes"] == ["square", "disc <1>"]
    assert settings["image_size"] == [32, 48]
    # The confidence of the best F1 travels with the run, and predictions use it.
    assert settings["confidence"] == report["validation"]["confidence"]
    with (run / "predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    confidences = [float(row["confidence"]) for row in predicted if row["confidence"]]
    assert min(confidences) >= settings["confidence"] - 1e-6
    with (run / "per_class.csv").open() as file:
        classes = list(csv.DictReader(file))
    assert [row["class"] for row in classes] == ["square", "disc <1>"]
    assert sum(int(row["objects"]) for row in classes) == report["validation"]["objects"]

    assert main(["evaluate", str(run), "--kernels", "keras", "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    assert evaluation["map"] == pytest.approx(found["validation"]["map"], abs=1e-6)
    assert main(["evaluate", str(run), "--kernels", "keras"]) == 0
    shown = capsys.readouterr().out
    assert "mAP50-95" in shown
    assert "disc <1>" in shown
    _predicts(run, tmp_path, capsys, predicted)


def _predicts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], predicted: list[dict]
) -> None:
    """The command and the class of a loaded model give the same objects."""
    image = np.full((64, 96), 30, np.uint8)
    image[20:40, 30:50] = 220
    path = tmp_path / "new.png"
    Image.fromarray(image).save(path)
    table = tmp_path / "t.csv"
    command = ["predict", str(run), "spots:128", str(path), "--kernels", "keras", "--json"]
    assert main([*command, "--output", str(table)]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert len(rows) == 25
    assert (rows[-1]["height"], rows[-1]["width"]) == (64, 96)
    with table.open() as file:
        lines = list(csv.DictReader(file))
    assert [line for line in lines if line["file"] != str(path)] == predicted

    model = cnnforge.load(run, kernels="keras", plugins=[PLUGIN])
    row = model.predict(str(path))
    assert row.as_dict() == rows[-1]
    # An array of another size is letterboxed as a file is.
    assert [each.box for each in model.predict(image).objects] == [each.box for each in row.objects]
    low = model.predict(str(path), confidence=0.01, max_detections=3)
    assert len(row.objects) < len(low.objects) <= 3
    with pytest.raises(UsageError, match="top_k is not an option of predictions"):
        model.predict(str(path), top_k=3)
    assert main([*command, "--top-k", "2"]) == 2
    assert "top_k is not an option" in capsys.readouterr().err


def test_two_maps_are_trained_with_all_augmentations(train: Callable[..., dict]) -> None:
    names = ("flip", "shift:2", "zoom:0.1", "crop:0.8", "rotate:0.02", "mosaic:0.5", "contrast")
    augment = [part for name in names for part in ("--augment", name)]
    found = train("--epochs", "2", *augment, model="spotter_two")
    assert np.isfinite(found["validation"]["loss"])


@pytest.mark.slow
def test_resumed_equals_uninterrupted(train: Callable[..., dict], tmp_path: Path) -> None:
    """Interrupted in mid-epoch, with scenes that are made again for each epoch."""
    # 15 batches, of which the first chunk has 8.
    options = (
        "--epochs",
        "3",
        "--data",
        "spots:120",
        "--augment",
        "shift:2",
        "--augment",
        "mosaic",
    )
    whole = train(*options)
    command = ["train", "spotter", *OPTIONS, "--plugin", PLUGIN, "--output", str(tmp_path / "i")]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command, *options],
        env={**os.environ, "SPOTS_DELAY": "0.5"},
        stderr=subprocess.PIPE,
        text=True,
    )
    run, limit = tmp_path / "i" / "spotter-spots_120-001", time.monotonic() + 100
    while not list(run.glob("last/state-*")) and time.monotonic() < limit:
        time.sleep(0.02)
    process.terminate()
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 143, error
    assert (run / "last" / "state-00000-0000008.ckpt").is_file()
    resumed = train("--resume", str(run))
    assert resumed["weights"] == whole["weights"]
    assert resumed["validation"] == whole["validation"]
    assert train(*options, "--seed", "1")["weights"] != whole["weights"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--augment", "mixup"), "/mixup' mixes images, and the task Detection cannot mix their"),
        (("--label-smoothing", "0.1"), "label_smoothing is not an option of the task 'detection'"),
        (("--monitor", "accuracy"), "there are: loss, heat_loss, box_loss, map50, map"),
        (("--data", "mnist5k"), "'spotter' is for the task 'detection', and mnist5k is for"),
    ],
)
def test_wrong_requests_end_with_two_and_a_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    command = ["train", "spotter", *OPTIONS, "--plugin", PLUGIN, "--output", str(out)]
    assert main([*command, *arguments]) == 2
    (line,) = [it for it in capsys.readouterr().err.splitlines() if it.startswith("error: ")]
    assert message in line
    assert not out.exists()


def test_a_classification_refuses_mosaic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "lenet", "--augment", "mosaic", "--output", str(tmp_path / "runs")]
    assert main(command) == 2
    assert "/mosaic' composes images, and the task Classification cannot compose" in (
        capsys.readouterr().err
    )


def dataset(train: Samples, validation: Samples | None = None, names: Any = ("a", "b", "c")) -> Any:
    return Dataset("d", names, train, validation or samples(3, seed=1), "", task="detection")


def changed(**attributes: Any) -> Samples:
    made = one((1, 2, 3, 4), (5, 6, 9, 9))
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dataset(samples(4, most=0)), "no image in train of d has an object"),
        (dataset(samples(4), samples(4, most=0)), "no image in validation of d has an object"),
        (dataset(one((1, 2, 3, 4), crowd=True)), "no image in train of d has an object"),
        (dataset(samples(4), names=("a", "a", "b")), "at least one, and different ones are needed"),
        (dataset(samples(4), names=()), "at least one, and different ones are needed"),
        (dataset(changed(boxes=None)), "train of d has 1 samples and no boxes: detection needs"),
        (dataset(changed(crowd=[])), "train of d has 1 samples and 0 crowd"),
        (
            dataset(changed(boxes=[np.zeros((2, 3))])),
            r"boxes of the shape \(2, 3\): expected",
        ),
        (
            dataset(changed(labels=[np.array([0, 3])])),
            r"d has labels 0\.\.3: expected 0\.\.2",
        ),
        (dataset(one((1, 2, 49, 9))), r"sample 0 has the box \[1\.0, 2\.0, 49\.0, 9\.0\]"),
        (dataset(one((-1, 2, 4, 9))), "expected x1 < x2 and y1 < y2 in the image of 48 x 32"),
        (dataset(one((4, 2, 4, 9))), "expected x1 < x2"),
        (dataset(one((4, 2, np.nan, 9))), "expected x1 < x2"),
    ],
)
def test_data_without_valid_objects_are_refused(given: Dataset, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Detection.for_dataset(given, {})


def test_settings_come_back(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "spotter", "spots")
    Detection(["ä", "<b>"], (32, 48), confidence=0.3, overlap=0.4, max_detections=7).write(run)
    found = Detection.for_run(run)
    assert found.classes == ("ä", "<b>")
    assert found.image_size == (32, 48)
    assert found.prediction_options == {"confidence": 0.3, "overlap": 0.4, "max_detections": 7}
    Detection(["a"], (8, 8)).write(run)
    assert Detection.for_run(run).confidence is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"classes": ["a"], "image_size": [1]}'])
def test_damaged_settings_are_reported(tmp_path: Path, text: str) -> None:
    run = RunDirectory.create(tmp_path, "spotter", "spots")
    with pytest.raises(RunError, match=r"detection\.json cannot be read"):
        Detection.for_run(run)
    (run.path / "detection.json").write_text(text)
    with pytest.raises(RunError, match=r"detection\.json (cannot be read|is damaged)"):
        Detection.for_run(run)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(8, 12, 6)], r"there are 3 classes: expected a map \(None, h, w, 7\)"),
        ([(8, 12, 7), (8, 12, 7)], "expected increasing strides"),
        ([(9, 12, 7)], "a map of 9 x 12 cells"),
        ([(7,)], "expected maps"),
    ],
)
def test_models_with_other_outputs_are_refused(shapes: list, message: str) -> None:
    outputs: Any = [(None, *shape) for shape in shapes]
    model: Any = SimpleNamespace(
        input_shape=(None, 32, 48, 1), output_shape=outputs if len(outputs) > 1 else outputs[0]
    )
    with pytest.raises(ValueError, match=message):
        Detection(["a", "b", "c"], (64, 64)).check_model(model)


def test_outputs_must_be_finite() -> None:
    task = Detection.example()
    task.check_outputs([np.zeros((1, 2, 2, 7)), np.zeros((1, 1, 1, 7))])
    with pytest.raises(ValueError, match="not finite"):
        task.check_outputs([np.zeros((1, 2, 2, 7)), np.full((1, 1, 1, 7), np.nan)])


def test_boxes_follow_every_augmentation() -> None:
    """In each image, the bright square is where its box is."""
    from cnnforge_plugins.augmentations.geometry import crop, flip, rotate, shift, zoom
    from cnnforge_plugins.augmentations.mosaic import mosaic

    class Squares(Samples):
        def fetch(self, indices: np.ndarray) -> np.ndarray:
            images = np.zeros((len(indices), 64, 96, 1), np.uint8)
            for image, index in zip(images, indices, strict=True):
                x1, y1, x2, y2 = self.boxes[index][0].astype(int)
                image[y1:y2, x1:x2] = 255
            return images

    random = np.random.default_rng(0)
    low = random.integers(12, 30, (60, 2))
    boxes = np.concatenate([low, low + random.integers(10, 24, (60, 2))], axis=1).astype(float)
    given = Squares(
        list(boxes[:, None]),
        [np.zeros(1, np.int32)] * 60,
        [np.zeros(1, bool)] * 60,
        np.tile([64, 96], (60, 1)),
    )
    task = Detection(["square"], (64, 96))
    makers = {"shift": shift("6"), "flip": flip(None), "crop": crop("0.7"), "zoom": zoom("0.3")}
    makers |= {"rotate": rotate("0.25"), "mosaic": mosaic("0.7")}
    for names in (*((name,) for name in makers), ("flip", "zoom", "mosaic", "shift")):
        read = AugmentedSamples(given, [(name, makers[name]) for name in names], 0, 0)
        images, targets = read.read(np.arange(60), task)
        compared = 0
        for image, boxes_of, labels in zip(
            images[..., 0], targets["boxes"], targets["labels"], strict=True
        ):
            bright = image > 127
            inside = np.zeros(bright.shape, bool)
            for x1, y1, x2, y2 in boxes_of[labels >= 0]:
                rows = slice(round(float(y1)), max(round(float(y2)), round(float(y1)) + 1))
                columns = slice(round(float(x1)), max(round(float(x2)), round(float(x1)) + 1))
                inside[rows, columns] = True
                part = bright[rows, columns]
                if min(part.shape) > 4:
                    compared += 1
                    # Each side of the box touches the square.
                    for side in (part[:2], part[-2:], part[:, :2], part[:, -2:]):
                        assert side.any(), names
            # What no box contains is a small rest of an object that was cut off.
            assert (bright & ~inside).sum() <= 0.25 * 24 * 24 * 4, names
        assert compared >= 30, names
