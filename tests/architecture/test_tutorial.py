"""The commands of docs/tutorial.md and docs/course run, and leave the files that are named."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "docs" / "course"
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
PICTURES = runpy.run_path(str(COURSE / "pictures.py"))
STEPS = list(PICTURES["steps"](TEXT))
COMMANDS = [source for kind, source in STEPS if kind == "console"]

# Scenes for training; the course has 8,000 new ones in each of three epochs.
FEW = "digits_in_scenes:16"


def write_tables(folder: Path) -> None:
    """Write Kaggle's two tables: the pictures of the tutorial as rows."""
    header = ",".join(f"pixel{number}" for number in range(28 * 28))
    pictures = sorted(Path("pictures").glob("*/*.png"))
    rows = [",".join(map(str, np.asarray(Image.open(path)).ravel())) for path in pictures]
    classes = sorted({path.parent.name for path in pictures})
    labels = [classes.index(path.parent.name) for path in pictures]
    labelled = [f"{label},{row}" for label, row in zip(labels, rows, strict=True)]
    (folder / "train.csv").write_text("\n".join([f"label,{header}", *labelled]))
    (folder / "test.csv").write_text("\n".join([header, *rows[:7]]))


def run(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "cnnforge"
    assert main(arguments) == 0, command


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (script,) = [source for kind, source in STEPS if kind == "python"]
    exec(script, {})
    write_tables(tmp_path)
    assert len(COMMANDS) == 13
    for command in COMMANDS:
        run(command)
    folder = tmp_path / "runs" / "lenet-pictures-001"
    table = TEXT.partition("| file | content |")[2].partition("\n\n")[0]
    names = re.findall(r"`(\w+\.?\w*)/?`(?=[^|]*\|.*\|$)", table, re.MULTILINE)
    assert len(names) >= 8
    assert [name for name in names if not (folder / name).exists()] == []
    assert (tmp_path / "answers.csv").read_text().startswith("ImageId,Label\n1,")


def run_shortened(command: str) -> None:
    """Run a command of the course, with less data for the detector."""
    if command == "pip install -e soft-edge":
        sys.path.insert(0, str(Path("soft-edge", "src").resolve()))
    elif command.startswith("cnnforge plugins check"):
        # It takes a minute, and tests/plugins/test_new_plugin.py runs it for the same package.
        assert f"$ {command}\n" in (ROOT / "docs" / "plugins.md").read_text()
    elif "soft_edge" in command:
        run(f"{command} --plugin soft_edge.manifest")
    elif "train detector" in command:
        run(command.replace("digits_in_scenes --epochs 3", f"{FEW} --epochs 1 --kernels keras"))
    else:
        name = "detector-digits_in_scenes"
        command = command.replace(f"{name}-", f"{name}_16-")
        run(command.replace(" digits_in_scenes ", f" {FEW} "))


@pytest.mark.slow(300)
def test_the_course(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    # The package of the last page must not stay importable.
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        PICTURES["run_course"](run_shortened)
    finally:
        for name in [each for each in sys.modules if each.partition(".")[0] == "soft_edge"]:
            del sys.modules[name]
    printed = "\n".join(capfd.readouterr())
    shown = [
        output
        for page in COURSE.glob("*.md")
        for output in re.findall(r"^```\n\n```text\n(.*?)```", page.read_text(), re.S | re.M)
    ]
    assert len(shown) >= 2
    assert [output for output in shown if output not in printed] == []
    sizes = re.findall(r"map: (\d+x\d+)", printed)
    assert [each for each in ("26x26", "300x256", "150x128") if each not in sizes] == []


def test_every_page_of_the_course_is_in_the_list_and_has_a_picture():
    pages = {path.stem: path.read_text() for path in COURSE.glob("*.md")}
    assert pages.keys() == set(PICTURES["PAGES"])
    shown = [name for text in pages.values() for name in re.findall(r"!\[[^]]+\]\((\S+)\)", text)]
    files = {
        path.name: path.stat().st_size
        for path in COURSE.iterdir()
        if path.suffix in (".png", ".jpg")
    }
    assert sorted(shown) == sorted(files)
    assert max(files.values()) <= PICTURES["MAX_BYTES"]
    assert sum(files.values()) <= 1_200_000
    assert [page for page, text in pages.items() if "](" not in text] == []
