"""T16: a folder of bad pictures costs the good ones nothing, and is left as it is."""

import csv
import json
import os
from pathlib import Path

import pytest
from odd_pictures import BAD, make_odd_folder, tree_digest

from cnnforge.cli import main

GOOD = 29


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_odd_folder(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    output = folder.parent / "runs"
    command = ["train", "lenet", "--data", str(folder), "--kernels", "keras", "--epochs", "1"]
    assert main([*command, "--output", str(output)]) == 0
    (run,) = output.iterdir()
    return run


def names_of(paths, folder: Path) -> list[str]:
    """Name bad files as `BAD` does. Tables show a newline as an escape."""
    return [os.path.relpath(path, folder).replace(r"\n", "\n") for path in paths]


def test_t16_data_check_lists_each_bad_file(folder: Path, capsys) -> None:
    before = tree_digest(folder)
    assert main(["data", "check", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert tree_digest(folder) == before
    unreadable = found["unreadable"]
    listed = names_of([each["file"] for each in unreadable], folder)
    assert sorted(listed) == sorted(BAD)
    for name, each in zip(listed, unreadable, strict=True):
        assert each["reason"].startswith(BAD[name])
    assert sum(found["parts"].values()) == GOOD


def test_t16_train_uses_the_good_ones(folder: Path, run: Path, capsys) -> None:
    before = tree_digest(folder)
    with (run / "skipped.csv").open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    assert names_of([path for path, _ in rows], folder) == sorted(BAD)
    with (run / "split.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) - 1 == GOOD
    command = ["train", "lenet", "--data", str(folder), "--kernels", "keras", "--strict"]
    assert main([*command, "--output", str(run.parent / "strict")]) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error: " in each]
    assert f"{len(BAD)} of {GOOD + len(BAD)} files" in line
    assert not (run.parent / "strict").exists()
    assert tree_digest(folder) == before


def test_t16_predict_has_one_row_for_each_file(
    folder: Path, run: Path, tmp_path: Path, capsys
) -> None:
    before = tree_digest(folder)
    output = tmp_path / "rows.json"
    command = ["predict", str(run), str(folder), "--kernels", "keras", "--output", str(output)]
    assert main(command) == 0
    assert tree_digest(folder) == before
    rows = json.loads(output.read_text(encoding="utf-8"))
    files = [row["file"] for row in rows]
    assert len(files) == len(set(files)) == GOOD + len(BAD)
    errors = {row["file"]: row["error"] for row in rows if row["error"] is not None}
    found = dict(zip(names_of(errors, folder), errors.values(), strict=True))
    assert sorted(found) == sorted(BAD)
    for name, reason in found.items():
        assert reason.startswith(BAD[name])
    assert "10 of 39 images could not be read" in capsys.readouterr().err
