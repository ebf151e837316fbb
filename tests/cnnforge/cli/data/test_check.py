"""`cnnforge data check`: what it finds, what it prints, and its exit code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photo, write_classes
from PIL import Image

from cnnforge.cli import main

Check = Callable[..., dict[str, Any]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Return `check(data, *options, code=0)`: the JSON that the command prints."""

    def check(data: Path | str, *options: str, code: int = 0) -> dict[str, Any]:
        assert main(["data", "check", str(data), "--json", *options]) == code
        return json.loads(capsys.readouterr().out)

    return check


def wrong(report: dict[str, Any]) -> list[str]:
    return [finding["text"] for finding in report["findings"] if finding["wrong"]]


def other(report: dict[str, Any]) -> list[str]:
    return [finding["text"] for finding in report["findings"] if not finding["wrong"]]


def test_good_data(tmp_path, check, capsys):
    data = write_classes(tmp_path / "photos", {"cat": 3, "dog": 5})
    report = check(data)
    assert report["classes"] == {"cat": {"all": 3}, "dog": {"all": 5}}
    assert report["parts"] == {"all": 8}
    assert report["sizes"] == {"smallest": [15, 20], "median": [15, 20], "largest": [15, 20]}
    assert report["modes"] == {"color": 8}
    assert (report["findings"], report["wrong"], report["alike"]) == ([], 0, None)
    assert main(["data", "check", str(data)]) == 0
    output = capsys.readouterr().out
    assert "8 images in 2 classes" in output
    assert "nothing is wrong" in output


def test_splits_of_the_data(tmp_path, check):
    for split, seed in (("train", 0), ("val", 300), ("test", 600)):
        write_classes(tmp_path / split, {"cat": 3, "dog": 2}, seed)
    report = check(tmp_path)
    assert report["parts"] == {"train": 5, "validation": 5, "test": 5}
    assert report["classes"]["cat"] == {"train": 3, "validation": 3, "test": 3}
    assert report["wrong"] == 0


def test_a_split_column_of_a_table(tmp_path, check):
    write_classes(tmp_path / "images", {"cat": 4, "dog": 4})
    rows = [
        f"images/{name}/{number}.png,{name},{'test' if number == 3 else 'train'}\n"
        for name in ("cat", "dog")
        for number in range(4)
    ]
    (tmp_path / "labels.csv").write_text("file,label,split\n" + "".join(rows))
    report = check(tmp_path / "labels.csv")
    assert report["parts"] == {"train": 6, "test": 2}


def test_unreadable_files(tmp_path, check, capsys):
    data = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})
    (data / "cat" / "empty.png").touch()
    content = (data / "cat" / "0.png").read_bytes()
    (data / "dog" / "short.png").write_bytes(content[: len(content) // 2])
    report = check(data, code=1)
    assert wrong(report) == ["2 files cannot be read"]
    assert [row["file"] for row in report["unreadable"]] == [
        str(data / "cat" / "empty.png"),
        str(data / "dog" / "short.png"),
    ]
    assert report["unreadable"][0]["reason"] == "empty file"
    assert main(["data", "check", str(data)]) == 1
    assert "empty.png: empty file" in capsys.readouterr().out


def test_copies_with_different_labels(tmp_path, check):
    data = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})
    shutil.copy(data / "cat" / "1.png", data / "dog" / "copy.png")
    report = check(data, code=1)
    assert wrong(report) == [
        "1 image with different labels for exact copies; 'cnnforge train --drop-duplicates' leaves "
        "copies out"
    ]
    assert report["findings"][0]["examples"] == ["cat/1.png (cat) = dog/copy.png (dog)"]
    (group,) = report["copies"]
    assert group["images"] == [
        {"name": "cat/1.png", "class": "cat", "split": None},
        {"name": "dog/copy.png", "class": "dog", "split": None},
    ]
    assert (group["different_labels"], group["across_splits"]) == (True, False)


def test_copies_across_splits(tmp_path, check):
    write_classes(tmp_path / "train", {"cat": 3, "dog": 3})
    write_classes(tmp_path / "test", {"cat": 3, "dog": 3}, 500)
    shutil.copy(tmp_path / "train/cat/1.png", tmp_path / "test/cat/copy.png")
    report = check(tmp_path, code=1)
    assert wrong(report)[0].startswith("1 image with exact copies in different splits")
    assert report["copies"][0]["across_splits"]


def test_copies_of_the_same_class_are_not_wrong(tmp_path, check):
    data = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})
    shutil.copy(data / "cat" / "1.png", data / "cat" / "copy.png")
    report = check(data)
    assert wrong(report) == []
    assert other(report)[0].startswith("1 image with exact copies of the same class")


def test_images_that_look_alike_are_searched_on_request(tmp_path, check):
    data = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})
    with Image.open(data / "cat" / "0.png") as image:
        image.save(data / "dog" / "near.jpg", quality=80)
    assert check(data)["alike"] is None
    report = check(data, "--near")
    assert other(report) == ["1 group of images that look alike, 1 with different labels"]
    assert [image["name"] for image in report["alike"][0]["images"]] == [
        "cat/0.png",
        "dog/near.jpg",
    ]


def test_classes_with_one_image_and_without_a_training_image(tmp_path, check):
    write_classes(tmp_path / "train", {"cat": 3, "dog": 3, "one": 1})
    write_classes(tmp_path / "test", {"cat": 3, "new": 2}, 500)
    report = check(tmp_path, code=1)
    assert wrong(report) == [
        "1 class without an image for training",
        "1 class with one image for training",
    ]
    assert [finding["examples"] for finding in report["findings"]] == [["new: 2 in test"], ["one"]]


def test_one_class_only(tmp_path, check):
    report = check(write_classes(tmp_path / "photos", {"cat": 3}), code=1)
    assert wrong(report) == ["one class only, 'cat': training needs two"]


def test_many_classes(tmp_path, check, capsys):
    data = write_classes(tmp_path / "photos", {f"c{number:03d}": 1 for number in range(300)})
    report = check(data, code=1)
    assert wrong(report) == ["300 classes with one image for training"]
    assert len(report["classes"]) == 300
    assert main(["data", "check", str(data)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 50
    assert any("280 classes of middle size are not shown" in line for line in lines)
    assert "  and 295 more" in lines


def test_unequal_classes(tmp_path, check):
    report = check(write_classes(tmp_path / "photos", {"cat": 30, "dog": 2}))
    assert other(report)[0].startswith(
        "classes of very different size: 'cat' has 30 images, 'dog' has 2"
    )


def test_modes_and_sizes(tmp_path, check):
    data = write_classes(tmp_path / "photos", {"cat": 2, "dog": 2})
    photo(1, (10, 30)).convert("L").save(data / "cat" / "gray.png")
    photo(2, (40, 50)).convert("RGBA").save(data / "cat" / "alpha.png")
    wide = np.arange(100, dtype=np.uint16).reshape(10, 10) * 600
    Image.fromarray(wide).save(data / "dog" / "wide.png")
    report = check(data)
    assert report["modes"] == {"color": 5, "gray": 1, "16-bit gray": 1, "with transparency": 1}
    assert report["sizes"] == {"smallest": [10, 10], "median": [15, 20], "largest": [50, 40]}


def test_blank_images_and_names_that_look_alike_are_notes(tmp_path, check):
    data = write_classes(tmp_path / "photos", {"Cat": 3, "cat": 3}, 0)
    Image.new("RGB", (9, 9), "white").save(data / "cat" / "blank.png")
    notes = check(data)["notes"]
    assert any("1 of 7 images are one color only" in note for note in notes)
    assert any("2 classes whose names look alike" in note for note in notes)


def test_a_dataset_of_arrays(check, tmp_path):
    report = check("mnist5k", "--near")
    assert report["classes"]["7"] == {"all": 500}
    assert report["modes"] == {"gray": 5000}
    assert len(report["alike"]) < 20


def test_the_sheet(tmp_path, check):
    data = write_classes(tmp_path / "photos", {"cat": 3, "кошка": 12})
    path = tmp_path / "sheet.png"
    report = check(data, "--sheet", str(path))
    assert report["sheet"] == str(path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 8 * 84
    assert sorted(tmp_path.iterdir()) == [data, path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sheet.jpg", "ends in .png"),
        ("missing/sheet.png", "there is no folder"),
        ("photos", "ends in .png"),
    ],
)
def test_a_wrong_name_of_the_sheet(name, message, tmp_path, capsys):
    data = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})
    assert main(["data", "check", str(data), "--sheet", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_a_sheet_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    data = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3})

    def full(path: Path, *arguments: object, **options: object) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cnnforge.reporting.contact_sheet.contact_sheet", full)
    assert main(["data", "check", str(data), "--sheet", str(tmp_path / "a.png")]) == 1
    assert "a.png cannot be written: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda path: None, 2, "there is no folder or file"),
        (lambda path: path.mkdir(), 1, "there is no image in the class folders"),
        (lambda path: (path / "cat").mkdir(parents=True), 1, "there is no image"),
        (lambda path: (path.mkdir(), photo(0).save(path / "a.png")), 1, "not in a class folder"),
    ],
)
def test_data_that_cannot_be_opened(make, code, message, tmp_path, capsys):
    make(tmp_path / "photos")
    assert main(["data", "check", str(tmp_path / "photos")]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_data_without_labels_are_refused(tmp_path, capsys, write_plugin):
    plugin = write_plugin(
        "acme_random",
        """
        @hookimpl
        def cnnforge_datasets():
            return [DatasetSpec(name="noise", target="acme_random:load", summary="new each epoch")]


        def load(argument, options):
            import numpy as np

            from cnnforge.data import ArraySamples, Dataset

            samples = ArraySamples(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), ["a", "b"])
            return Dataset("noise", ("x", "y"), samples, samples, "0")
        """,
    )
    assert main(["data", "check", "noise", "--plugin", plugin]) == 1
    assert "has no fixed images with class labels" in capsys.readouterr().err


def test_the_group_without_a_command_shows_its_commands(capsys):
    assert main(["data"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("check", "convert", "show"))


def test_a_table_that_contradicts_itself(tmp_path, check):
    for number in range(6):
        photo(number).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{'ab'[number % 2]}\n" for number in range(6)]
    rows += ["0.png,b\n", "missing.png,a\n"]
    (tmp_path / "table.csv").write_text("file,label\n" + "".join(rows))
    report = check(tmp_path / "table.csv", code=1)
    assert [finding["examples"] for finding in report["findings"]] == [
        ["missing.png: there is no such picture; line 9 of table.csv names it"],
        ["0.png (a) = 0.png (b)"],
    ]
