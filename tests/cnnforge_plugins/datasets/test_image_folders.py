"""Folders of images as people bring them: splits, names, runs, blank and dropped pictures."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import DataOptions
from cnnforge.errors import DataError
from cnnforge_plugins.datasets.images import load


def draw(path, seed, size=(8, 8)):
    pixels = np.random.default_rng([seed, *os.fsencode(path.name)]).integers(0, 256, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return path


def folder_of(root, *classes, count=5, first=0):
    for seed, name in enumerate(classes):
        for row in range(first, first + count):
            draw(root / name / f"{row}.png", seed)
    return root


def opened(folder, **options):
    return load(str(folder), DataOptions(**options))


def names(samples, folder):
    return [os.path.relpath(name, folder) for name in samples.names]


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("TRAIN", "VALID"),
        ("Train set", "Dev set"),
        ("train2017", "val2017"),
        ("01_training_data", "02_validation_data"),
    ],
)
@pytest.mark.parametrize("outer", ["", "photos", "photos/photos"])
def test_splits_in_every_spelling_are_splits(tmp_path, train, validation, outer):
    folder_of(tmp_path / outer / train, "cat", "dog", count=3)
    folder_of(tmp_path / outer / validation, "cat", "dog", count=2, first=7)
    dataset = opened(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train), len(dataset.validation)) == (6, 4)
    assert f"training on '{train}' and validation on '{validation}'" in dataset.notes
    if outer:
        assert f"the classes are the sub-folders of {tmp_path / outer}" in dataset.notes


@pytest.mark.parametrize(("train", "test"), [("Training", "Testing"), ("Train set", "Test set")])
def test_a_test_split_is_never_for_validation(tmp_path, train, test):
    folder_of(tmp_path / train, "cat", "dog", count=5)
    folder_of(tmp_path / test, "cat", "dog", count=2, first=7)
    dataset = opened(tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (8, 2, 4)
    assert {name.split(os.sep)[0] for name in names(dataset.validation, tmp_path)} == {train}
    assert {name.split(os.sep)[0] for name in names(dataset.test, tmp_path)} == {test}
    assert (
        f"training on '{train}', of which a part is kept for validation, and a test at the end on "
        f"'{test}'"
    ) in dataset.notes


def test_each_split_may_be_in_a_folder_of_its_own_name(tmp_path):
    """The Intel images: seg_train/seg_train/CLASS."""
    folder_of(tmp_path / "seg_train" / "seg_train", "sea", "street", count=3)
    folder_of(tmp_path / "seg_test" / "seg_test", "sea", "street", count=2, first=7)
    draw(tmp_path / "seg_pred" / "seg_pred" / "1.png", 1)
    dataset = opened(tmp_path)
    assert dataset.classes == ("sea", "street")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (4, 2, 4)


def test_splits_without_one_for_training_are_not_classes(tmp_path):
    for part in ("val", "test"):
        folder_of(tmp_path / part, "cat", "dog", count=2)
    with pytest.raises(DataError, match=r"no folder for training, only 'val', 'test'"):
        opened(tmp_path)
    assert len(opened(tmp_path, purpose="evaluation").train) == 8


def test_names_of_splits_that_stay_classes_are_suspicious(tmp_path):
    folder_of(tmp_path, "train", "bus", "Images")
    assert any("unusual for a class: 'Images', 'train'" in note for note in opened(tmp_path).notes)


def test_another_case_of_a_class_is_suggested(tmp_path):
    folder_of(tmp_path / "train", "cat", "dog")
    folder_of(tmp_path / "val", "Cat", "dog", first=7)
    with pytest.raises(DataError, match=r"'Cat' has images in 'val'.*is 'Cat' the class 'cat'\?"):
        opened(tmp_path)


@pytest.mark.parametrize("purpose", ["evaluation", "prediction"])
@pytest.mark.parametrize(
    "files",
    [
        ("cat/1.png",),
        ("cat/1.png", "dog/1.png"),
        ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png"),
        ("train/cat/1.png", "val/bird/3.png"),
        ("test/cat/1.png", "test/dog/2.png"),
    ],
)
def test_no_rule_of_training_applies_to_use(tmp_path, files, purpose):
    for seed, file in enumerate(files):
        draw(tmp_path / file, seed)
    dataset = opened(tmp_path, purpose=purpose)
    assert names(dataset.train, tmp_path) == list(files)
    assert len(dataset.validation) == 0
    assert dataset.classes == tuple(sorted({file.split("/")[-2] for file in files}))
    assert dataset.splits is not None
    assert dataset.splits[0].names == list(files)


def test_images_without_classes_are_opened_for_prediction_only(tmp_path):
    draw(tmp_path / "1.png", 1)
    draw(tmp_path / "2.png", 2)
    (tmp_path / "3.svg").touch()
    dataset = opened(tmp_path, purpose="prediction")
    assert not dataset.labelled
    assert names(dataset.train, tmp_path) == ["1.png", "2.png"]
    assert len(dataset.skipped) == 1
    with pytest.raises(DataError, match="not in a class folder"):
        opened(tmp_path, purpose="evaluation")


def test_runs_are_left_out_and_told_once(tmp_path):
    folder_of(tmp_path, "cat", "dog")
    for run in ("runs/lenet-001", "runs/lenet-002", "cat/lenet-003"):
        draw(tmp_path / run / "curves.png", 1)
        (tmp_path / run / "config.toml").write_text("[run]\nformat = 2\n")
    dataset = opened(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) + len(dataset.validation) == 10
    (note,) = dataset.notes
    assert note.startswith("runs of cnnforge are not data, and left out: ")


def test_names_in_two_unicode_forms_are_one_class(tmp_path):
    forms = [
        [unicodedata.normalize(form, name) for name in ("Ærø", "Åre")] for form in ("NFC", "NFD")
    ]
    folder_of(tmp_path / "train", *forms[0])
    folder_of(tmp_path / "val", *forms[1], count=2, first=7)
    assert opened(tmp_path).classes == tuple(sorted(forms[0]))
    one = folder_of(tmp_path / "one", *forms[0])
    folder_of(one, *forms[1], count=2, first=7)
    assert len(opened(one).classes) == 2
    assert len(opened(one, purpose="evaluation").train) == 14


def test_the_unicode_form_of_names_changes_neither_split_nor_fingerprint(tmp_path):
    datasets = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        for row, name in enumerate(("é", "ez", "f", "à", "b")):
            for kind in ("bé", "bf"):
                file = unicodedata.normalize(form, f"{kind}/{name}.png")
                draw(root / file, 0).write_bytes(draw(tmp_path / f"{row}.png", row).read_bytes())
        datasets.append(opened(root))
    assert datasets[0].fingerprint == datasets[1].fingerprint


def test_names_of_any_bytes_are_classes(tmp_path):
    raw = [os.fsdecode(b"schl\xe4cht"), "two\nlines", "\x1b[31mred", " blank"]
    dataset = opened(folder_of(tmp_path, *raw))
    assert set(dataset.classes) == {
        r"schl\xe4cht",
        r"two\nlines",
        r"\x1b[31mred",
        r"\x20blank",
    }
    assert dataset.train.fetch(np.arange(len(dataset.train))).shape == (16, 8, 8, 1)
    assert dataset.splits is not None
    for text in (*dataset.classes, *dataset.splits[0].names, dataset.name):
        assert text.isprintable()


def test_blank_pictures_are_counted_in_every_dataset(tmp_path):
    folder_of(tmp_path, "cat", "dog")
    for name in ("cat", "dog"):
        Image.new("L", (8, 8), 40).save(tmp_path / name / "blank.png")
        Image.fromarray(np.eye(8, dtype=np.uint8) * 9).save(tmp_path / name / "night.png")
    first = tmp_path / "cat"
    for purpose in ("training", "evaluation"):
        notes = opened(tmp_path, purpose=purpose).notes
        assert f"2 of 14 images are one color only; the first is {first / 'blank.png'}" in notes
        assert f"2 of 14 images are nearly black; the first is {first / 'night.png'}" in notes


def test_what_is_dropped_is_told_with_its_count(tmp_path):
    folder_of(tmp_path, "cat", "dog")
    for file in ("cat/1.xml", "cat/2.xml", "dog/1.txt", "bird/1.psd", "bird/2.psd", "dog/x.ico"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "cat" / "Thumbs.db").touch()
    dataset = opened(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.skipped) == 3
    assert dataset.notes == (
        "not a class, because no image in the folder can be read: 'bird' (2 files: Photoshop "
        "pictures are not read; save them as PNG or JPEG)",
        "files that are not pictures are left out: 2 .xml, 1 .txt",
    )


def test_the_size_of_photographs_is_bounded(tmp_path):
    folder_of(tmp_path, "cat", "dog")
    for row in range(9):
        draw(tmp_path / "cat" / f"large{row}.png", row, (90, 120))
    assert opened(tmp_path).image_shape == (8, 8, 1)
    for row in range(9):
        draw(tmp_path / "dog" / f"large{row}.png", row, (90, 120))
    assert opened(tmp_path).image_shape == (90, 120, 1)
    assert opened(tmp_path, max_size=40).image_shape == (30, 40, 1)
