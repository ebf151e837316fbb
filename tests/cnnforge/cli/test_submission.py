"""`predict --submission`: the id in a row belongs to the image of the row."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cnnforge.cli import main
from cnnforge.cli.predict.predict import _show
from cnnforge.tasks.classification import Classification
from cnnforge.tasks.classification.report import Prediction

PLUGIN = """
from cnnforge.plugin import DatasetSpec, ModelSpec, hookimpl


@hookimpl
def cnnforge_models():
    return [ModelSpec(name="flat", target="acme_flat:build", summary="one dense layer")]


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="plain", target="acme_flat:load", summary="no ids")]


def build(input_shape, classes):
    import keras

    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Rescaling(1 / 255, offset=-0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


def load(argument, options):
    import numpy as np

    from cnnforge.data import dataset_from_arrays

    images = np.zeros((8, 4, 4, 1), np.uint8)
    return dataset_from_arrays(
        "plain",
        images,
        np.arange(8) % 2,
        names=[f"plain {number}" for number in range(8)],
        classes=["bright", "dark"],
        options=options,
    )
"""

Predict = Callable[..., list[list[str]]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that tells bright images from dark ones, and its plugin."""
    folder = tmp_path_factory.mktemp("submission")
    plugin = folder / "acme_flat.py"
    plugin.write_text(PLUGIN)
    for name, level in (("bright", 200), ("dark", 20)):
        for number in range(10):
            picture(folder / "photos" / name / f"{number}.png", level + number)
    command = ["train", "flat", "--data", str(folder / "photos"), "--kernels", "keras"]
    command += ["--epochs", "10", "--learning-rate", "0.1", "--plugin", str(plugin)]
    assert main([*command, "--output", str(folder / "runs")]) == 0
    return folder / "runs" / "flat-photos-001", str(plugin)


@pytest.fixture
def predict(trained: tuple[Path, str], tmp_path: Path) -> Predict:
    """Return `predict(*inputs)`: the rows of the submission."""

    def predict(*inputs: Path, code: int = 0, options: tuple[str, ...] = ()) -> list[list[str]]:
        run, plugin = trained
        file = tmp_path / "answers.csv"
        command = ["predict", str(run), *map(str, inputs), "--submission", str(file), *options]
        assert main([*command, "--kernels", "keras", "--plugin", plugin]) == code
        if not file.exists():
            return []
        with file.open() as text:
            return list(csv.reader(text))

    return predict


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), level).save(path)


def pixels(level: int) -> str:
    return ",".join([str(level)] * 16)


HEADER = ",".join(f"pixel{number}" for number in range(16))


def test_numbers_in_file_names_are_in_the_order_of_their_values(
    predict: Predict, tmp_path: Path
) -> None:
    for number in (1, 2, 9, 10, 11, 100):
        picture(tmp_path / "test" / f"{number}.png", 220 if number < 10 else 10)
    (tmp_path / "test" / "bad7.jpg").write_text("<html>")
    rows = predict(tmp_path / "test")
    assert rows[0] == ["id", "label"]
    assert [row for row in rows if row[0] != "bad7"][1:] == [
        ["1", "bright"],
        ["2", "bright"],
        ["9", "bright"],
        ["10", "dark"],
        ["11", "dark"],
        ["100", "dark"],
    ]
    assert ["bad7", ""] in rows
    assert predict(tmp_path / "test", options=("--limit", "3")) == rows[:4]


def test_files_of_the_same_name_have_their_folder_in_the_id(
    predict: Predict, tmp_path: Path
) -> None:
    picture(tmp_path / "test" / "a" / "1.png", 10)
    picture(tmp_path / "test" / "b" / "1.png", 220)
    assert predict(tmp_path / "test")[1:] == [["a/1.png", "dark"], ["b/1.png", "bright"]]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [f"Image_Id,{HEADER}", f"31,{pixels(9)}", f"7,{pixels(230)}"],
            [["Image_Id", "Label"], ["31", "dark"], ["7", "bright"]],
        ),
        (
            [f"{HEADER},id", f"{pixels(230)},b-2", f"{pixels(9)},a-10"],
            [["id", "label"], ["b-2", "bright"], ["a-10", "dark"]],
        ),
        (
            [HEADER, *[pixels(9)] * 10, pixels(230)],
            [["ImageId", "Label"], *[[str(n), "dark"] for n in range(1, 11)], ["11", "bright"]],
        ),
    ],
)
def test_the_rows_of_a_table_of_pixels(
    predict: Predict, tmp_path: Path, lines: list[str], expected: list[list[str]]
) -> None:
    (tmp_path / "test.csv").write_text("\n".join(lines))
    assert predict(tmp_path / "test.csv") == expected


def test_the_rows_of_a_table_that_names_pictures(predict: Predict, tmp_path: Path) -> None:
    picture(tmp_path / "test" / "33.png", 10)
    picture(tmp_path / "test" / "4.png", 220)
    (tmp_path / "test" / "5.png").write_text("<html>")
    (tmp_path / "test.csv").write_text("image_id\n33\n404\n4\n5\n")
    rows = predict(tmp_path / "test.csv")
    assert rows[0] == ["image_id", "label"]
    assert sorted(rows[1:]) == [["33", "dark"], ["4", "bright"], ["404", ""], ["5", ""]]


def test_without_ids_nothing_is_written(
    predict: Predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(Path("plain"), code=2) == []
    assert "--submission needs the id of each image, but the data have no ids" in _error(capsys)
    for folder in ("a", "b"):
        picture(tmp_path / folder / "1.png", 10)
    assert predict(tmp_path / "a", tmp_path / "b", code=2) == []
    assert "two images have the id '1'" in _error(capsys)
    (tmp_path / "test.csv").write_text(f"{HEADER}\n{pixels(1)}\n")
    assert predict(tmp_path / "a", tmp_path / "test.csv", code=2) == []
    assert "'id' and those of another 'ImageId'" in _error(capsys)


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_reasons_are_below_the_table_on_a_terminal(capsys, monkeypatch):
    task = Classification(("cat", "dog"))
    rows = [
        Prediction("a.png", (("cat", 0.7), ("dog", 0.3))),
        *(Prediction(f"{number}.heic", error="no reader") for number in range(7)),
        Prediction("b.png", (("dog", 0.6), ("cat", 0.4))),
    ]
    _show(rows, task, None)
    out, err = capsys.readouterr()
    assert out.count("no reader") == 7
    assert err == "7 of 9 images could not be read\n"
    monkeypatch.setattr("cnnforge.cli._render.is_terminal", lambda: True)
    _show(rows, task, None)
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["a.png", "b.png"]
    assert "error" not in out
    lines = err.splitlines()
    assert lines[:2] == ["7 of 9 images could not be read", "0.heic: no reader"]
    assert lines[-1] == "and 2 more; --output FILE lists them"
    assert len(lines) == 7
    # If no image could be read, the table has only the reasons.
    _show(rows[1:3], task, None)
    out, err = capsys.readouterr()
    assert out.count("no reader") == 2
    assert err == ""
