"""Names of any bytes, and files that are not data, from the command line to the files."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main

ROOT = os.fsdecode(b"r\xe4um")
CLASSES = [os.fsdecode(b"schl\xe4cht"), "two\nlines", " blank"]
SHOWN = [r"\x20blank", r"schl\xe4cht", r"two\nlines"]


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(pixels).save(file, "PNG")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, with a run in it."""
    folder = tmp_path_factory.mktemp("odd") / ROOT
    for seed, name in enumerate(CLASSES):
        for row in range(5):
            draw(folder / name / os.fsdecode(b"%d\xff\n.png" % row), 10 * seed + row)
    (folder / CLASSES[0] / os.fsdecode(b"bad\xfe.png")).write_bytes(b"junk")
    (folder / CLASSES[0] / "drawing.svg").touch()
    command = ["train", "lenet", "--data", str(folder), "--kernels", "keras", "--epochs", "1"]
    assert main([*command, "--output", str(folder.parent / "runs")]) == 0
    shutil.copytree(folder.parent / "runs", folder / "runs")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    (run,) = (folder.parent / "runs").iterdir()
    return run


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_every_file_of_a_run_is_there_and_utf8(run: Path) -> None:
    assert json.loads((run / "classes.json").read_text(encoding="utf-8")) == SHOWN
    assert rows_of(run / "confusion_matrix.csv")[0][1:] == SHOWN
    assert (run / "confusion_matrix.png").exists()
    for row in rows_of(run / "predictions.csv")[1:]:
        assert row[0].isprintable()
        assert row[0].endswith(r"\xff\n.png")
    skipped = rows_of(run / "skipped.csv")[1:]
    assert [os.path.basename(path) for path, _ in skipped] == [r"bad\xfe.png", "drawing.svg"]
    for path in run.iterdir():
        if path.suffix in (".toml", ".json", ".csv"):
            path.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_prediction_has_a_row_for_each_picture_and_none_for_a_run(
    folder: Path, run: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"rows.{suffix}"
    command = ["predict", str(run), str(folder), "--kernels", "keras", "--output", str(output)]
    assert main(command) == 0
    if suffix == "csv":
        header, *cells = rows_of(output)
        rows = [dict(zip(header, row, strict=True)) for row in cells]
    else:
        rows = json.loads(output.read_text(encoding="utf-8"))
    assert len(rows) == 17
    assert all(row["file"].isprintable() for row in rows)
    assert not any("curves" in row["file"] for row in rows)
    errors = {os.path.basename(row["file"]): row["error"] for row in rows if row["error"]}
    assert errors[r"bad\xfe.png"].startswith("not an image")
    assert errors["drawing.svg"] == "SVG pictures are not read; save them as PNG or JPEG"


def test_the_data_are_found_again(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    copy = tmp_path / os.fsdecode(b"c\xf6py")
    shutil.copytree(folder, copy)
    command = ["evaluate", str(run), "--kernels", "keras", "--data", f"images:{copy}"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in SHOWN)
    assert main(["train", "--resume", str(run), "--epochs", "+1"]) == 0
