"""`cnnforge data show`: the sheet has what training will see."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from pictures import write_classes
from PIL import Image

from cnnforge.cli import main
from cnnforge.reporting import contact_sheet


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "photos", {"cat": 6, "dog": 12})


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[contact_sheet.SheetRow]:
    """The rows of the sheets that are drawn."""
    drawn: list[contact_sheet.SheetRow] = []
    draw = contact_sheet.contact_sheet

    def spy(path: Path, rows: list[contact_sheet.SheetRow], **options: object) -> list[str]:
        drawn.extend(rows)
        return draw(path, rows, **options)

    monkeypatch.setattr(contact_sheet, "contact_sheet", spy)
    return drawn


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_resized_training_images(data, tmp_path, rows, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", "photos", "--image-size", "8x6"]) == 0
    captured = capsys.readouterr()
    assert "18 of 18 images are resized to 8x6" in captured.err
    assert "sheet: sheet.png" in captured.err
    assert [row.name for row in rows] == ["cat", "dog"]
    # The validation images are not shown.
    assert [len(row.images) for row in rows] == [5, 8]
    assert {image.shape for row in rows for image in row.images} == {(8, 6, 3)}
    # A second sheet does not replace the first one.
    assert main(["data", "show", "photos"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["sheet-2.png", "sheet.png"]


def test_augmented_images_are_those_of_training(data, tmp_path, rows):
    from cnnforge.data import AugmentedSamples, DataOptions, open_dataset
    from cnnforge.plugin_host.discovery import discover
    from cnnforge.training.components import make_augmentations, qualified

    path = tmp_path / "a.png"
    command = [
        "data",
        "show",
        str(data),
        "--augment",
        "shift:3",
        "--augment",
        "flip",
        "--seed",
        "5",
    ]
    assert main([*command, "--output", str(path)]) == 0
    plugins = discover()
    dataset = open_dataset(str(data), plugins.datasets, DataOptions(seed=5, max_size=96))
    names = qualified(["shift:3", "flip"], plugins.augmentations)
    augmentations = make_augmentations(names, plugins.augmentations)
    for label, row in enumerate(rows):
        index = np.flatnonzero(dataset.train.labels == label)[:1]
        assert np.array_equal(row.images[0], dataset.train.fetch(index)[0])
        for epoch in range(7):
            samples = AugmentedSamples(dataset.train, augmentations, 5, epoch)
            assert np.array_equal(row.images[1 + epoch], samples.fetch(index)[0])


def test_equal_seeds_give_equal_sheets(data, tmp_path):
    digests = []
    for number, seed in enumerate(("1", "1", "2")):
        path = tmp_path / f"{number}.png"
        command = ["data", "show", str(data), "--augment", "shift:3", "--seed", seed]
        assert main([*command, "--output", str(path)]) == 0
        digests.append(digest(path))
    assert digests[0] == digests[1] != digests[2]


def test_the_model_bounds_the_size(tmp_path, rows):
    from pictures import photo

    for name in ("cat", "dog"):
        (tmp_path / "large" / name).mkdir(parents=True)
        for number in range(3):
            photo(number, (300, 150)).save(tmp_path / "large" / name / f"{number}.jpg")
    output = ["--output", str(tmp_path / "a.png")]
    assert main(["data", "show", str(tmp_path / "large"), *output]) == 0
    assert rows[0].images[0].shape == (48, 96, 3)
    assert main(["data", "show", str(tmp_path / "large"), "--model", "resnet20", *output]) == 0
    assert rows[2].images[0].shape == (64, 128, 3)


def test_many_classes(tmp_path, rows):
    data = write_classes(tmp_path / "photos", {f"c{number:02d}": 2 for number in range(90)})
    path = tmp_path / "a.png"
    assert main(["data", "show", str(data), "--output", str(path)]) == 0
    assert len(rows) == contact_sheet.MAX_ROWS
    with Image.open(path) as image:
        assert image.height < 4000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "nope"], "there is no augmentation named 'nope'"),
        (["--augment", "shift:x"], "shift"),
        (["--model", "nope"], "there is no model named 'nope'"),
        (["--output", "a.jpg"], "ends in .png"),
        (["--seed", "-1"], "seed"),
        (["--color", "blue"], "color"),
        (["--image-size", "big"], "image_size"),
    ],
)
def test_wrong_options(options, message, data, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", str(data), *options]) == 2
    error = capsys.readouterr().err
    assert message in error.replace("--image-size", "image_size")
    assert list(tmp_path.glob("*.png")) == []


def test_the_split_is_that_of_training(data, tmp_path, rows):
    output = ["--output", str(tmp_path / "a.png")]
    assert main(["data", "show", str(data), "--seed", "1", "--split-seed", "2", *output]) == 0
    assert main(["data", "show", str(data), "--seed", "2", *output]) == 0
    for first, second in zip(rows[:2], rows[2:], strict=True):
        assert all(map(np.array_equal, first.images, second.images))
