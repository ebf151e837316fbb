"""`cnnforge explain`: how the network of a run sees a picture."""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main
from cnnforge.runs import RunDirectory
from cnnforge.tasks.detection import Detection
from cnnforge_plugins.models.detector import detector

RANDOM = np.random.default_rng(3)
ODD_NAME = "a<b>&\"'\u202eb.png"
layers = keras.layers
TASK = "cnnforge/classification"


def small(shape: tuple[int, int, int] = (8, 8, 1), classes: int = 2) -> keras.Model:
    inputs = keras.Input(shape)
    x = layers.Conv2D(2, 3, activation="relu", name="conv")(layers.Rescaling(1 / 255)(inputs))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))


def make_run(
    folder: Path, model: keras.Model, task: str = TASK, data: str = "images:gone", classes: int = 2
) -> Path:
    directory = RunDirectory.create(folder / "runs", "toy", "toy")
    directory.write_config({"model": "toy", "data": data}, {"task": task})
    names = ["first", "second", "third"][:classes]
    directory.write_json("classes.json", names)
    model.save(directory.model)
    return directory.path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels = RANDOM.integers(0, 256, (30, 41, 4), np.uint8)
    pixels[..., 3] |= 1
    Image.fromarray(pixels).save("color.png")
    Image.fromarray(pixels[..., 0]).save("gray.png")
    for label in ("first", "second"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(12):
            image = RANDOM.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(image).save(f"data/{label}/{number}.png")
    return tmp_path


def test_a_page_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(here, small())
    assert main(["explain", str(run), "gray.png"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "explained.html\n"
    assert "answer: " in captured.err
    assert "runner-up: " in captured.err
    # The data of the run are gone: everything else is in the page.
    gone = "the page leaves out: The nearest training pictures: the data of the run cannot be read"
    assert gone in captured.err
    text = Path("explained.html").read_text(encoding="utf-8")
    assert "The nearest training pictures are not known" in text
    # A second page does not replace the first one.
    assert main(["explain", str(run), "color.png"]) == 0
    assert capsys.readouterr().out == "explained-2.html\n"


def test_json_and_similar_pictures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(here, small(), data=f"images:{here / 'data'}")
    shutil.copy("data/first/3.png", ODD_NAME)
    command = ["explain", str(run), ODD_NAME, "--output", "p.html", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] == "p.html"
    assert found["bytes"] == os.path.getsize("p.html")
    assert found["computes"] is True
    assert [each["class"] for each in found["answers"]].count("first") == 1
    assert sum(each["probability"] for each in found["answers"]) == pytest.approx(1, abs=1e-6)
    assert {each["method"] for each in found["maps"]} == {
        "grad-cam",
        "occlusion",
        "integrated-gradients",
    }
    assert found["left_out"] == []
    text = Path("p.html").read_text(encoding="utf-8")
    assert "training pictures" in text
    assert "<b>" not in text
    assert "\u202e" not in text


def test_a_picture_of_another_size_and_mode(here: Path) -> None:
    run = make_run(here, small((9, 12, 3)))
    Image.open("gray.png").convert("1").save("bits.png")
    for name in ("bits.png", "color.png", "gray.png"):
        assert main(["explain", str(run), name, "--output", "p.html"]) == 0
    assert "30x41, gray" in Path("p.html").read_text(encoding="utf-8")


def two_inputs() -> keras.Model:
    one, two = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    return keras.Model([one, two], layers.Dense(2)(layers.Flatten()(one + two)))


def two_outputs() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(inputs)
    return keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(3)(x)])


@pytest.mark.parametrize(
    ("model", "task", "classes", "code", "message"),
    [
        (two_inputs, TASK, 2, 2, "takes inputs of the shapes [(None, 8, 8, 1), (None, 8, 8, 1)]"),
        (two_outputs, TASK, 2, 2, "has 1 inputs and 2 outputs, expected one picture"),
        (small, TASK, 3, 1, "returns (2,) values, and the run has 3 classes"),
        (small, "cnnforge/none", 2, 2, "there is no task named 'cnnforge/none'"),
    ],
)
def test_wrong_runs(
    here: Path,
    model,
    task: str,
    classes: int,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run(here, model(), task=task, classes=classes)
    assert main(["explain", str(run), "gray.png"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("explained.html").exists()


def detector_run(folder: Path, classes: list[str], size: int = 32) -> Path:
    directory = RunDirectory.create(folder / "runs", "detector", "boxes")
    about = {"task": "builtin/detection"}
    directory.write_config({"model": "detector", "data": "images:gone"}, about)
    Detection(classes, (size, size), confidence=0.01).write(directory)
    detector((32, 32, 3), 2).save(directory.model)
    return directory.path


def test_a_detector(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cnnforge.explaining.why.MAX_STEPS", 64)
    run = detector_run(here, ["<b>one</b>", "two\u202e"])
    Image.open("gray.png").convert("1").save("bits.png")
    assert main(["explain", str(run), "bits.png", "--output", "p.html", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["computes"] is True
    assert found["bytes"] < 3_000_000
    # The picture is letterboxed, and the boxes are in its own pixels: 41 wide, 30 high.
    boxes = np.array([each["box"] for each in found["objects"]])
    assert len(boxes) > 0
    assert boxes.min() >= 0
    assert (boxes.max(0) <= [41, 30, 41, 30]).all()
    assert {each["class"] for each in found["maps"]} <= {"<b>one</b>", "two\\u202e"}
    text = Path("p.html").read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "\u202e" not in text
    assert main(["explain", str(run), "color.png"]) == 0
    assert " objects: " in capsys.readouterr().err


def test_a_detector_with_the_classes_of_another(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [(["one"], 32, "expected maps with 5 channels"), (["a", "b"], 64, "pictures are 32x32")]
    for classes, size, message in cases:
        run = detector_run(here, classes, size)
        assert main(["explain", str(run), "gray.png"]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert "model.keras and detection.json do not belong together; restore them" in error
        assert error.count("\n") == 1


PLUGIN = """
from cnnforge.plugin import TaskSpec, hookimpl


@hookimpl
def cnnforge_tasks():
    return [TaskSpec(name="counting", target="acme_counting:Task", summary="counts")]
"""


def test_a_run_of_another_task(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("acme_counting.py").write_text(PLUGIN, encoding="utf-8")
    run = make_run(here, small(), task="acme_counting/counting")
    assert main(["explain", str(run), "gray.png", "--plugin", "acme_counting.py"]) == 2
    error = capsys.readouterr().err
    assert "is for the task 'counting', and explain shows networks of the task" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "missing.png"], 1, "missing.png: no such file"),
        (["RUN", "."], 2, "is a folder: name one image file"),
        (["RUN", "broken.png"], 1, "broken.png: "),
        (["RUN", "gray.png", "--output", "x.png"], 2, "the page is an HTML file"),
        (["RUN", "gray.png", "--output", "no/x.html"], 2, "there is no folder no"),
        (["no-run", "gray.png"], 2, "no-run"),
        (["data", "gray.png"], 2, "data"),
    ],
)
def test_wrong_arguments(
    here: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(here, small())
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    before = sorted(path.name for path in here.iterdir())
    assert main(["explain", *[str(run) if each == "RUN" else each for each in arguments]]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(path.name for path in here.iterdir()) == before
