import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from odd_pictures import BAD, draw, folder_of, make_odd_folder, tree_digest

from cnnforge.data import DataOptions, read_image
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets.images import load


def opened(folder, **options):
    return load(str(folder), DataOptions(**options))


def names(samples, folder):
    return [os.path.relpath(name, folder) for name in samples.names]


def test_a_folder_is_split_class_by_class(tmp_path):
    dataset = opened(folder_of(tmp_path))
    assert dataset.classes == ("cat", "dog")
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.name == f"images:{tmp_path}"
    assert (len(dataset.train), len(dataset.validation)) == (16, 4)
    assert np.bincount(dataset.validation.labels).tolist() == [2, 2]
    assert dataset.skipped == dataset.notes == ()
    for part in (dataset.train, dataset.validation):
        for row, name in enumerate(part.names):
            assert dataset.classes[part.labels[row]] == os.path.basename(os.path.dirname(name))
            expected = read_image(name, dataset.image_shape)
            np.testing.assert_array_equal(part.fetch(np.array([row]))[0], expected)


@pytest.fixture
def odd_folder(tmp_path):
    return make_odd_folder(tmp_path)


def test_each_odd_file_is_read_or_listed_with_a_reason(odd_folder):
    before = tree_digest(odd_folder)
    dataset = opened(odd_folder)
    skipped = {os.path.relpath(file.path, odd_folder): file.reason for file in dataset.skipped}
    assert list(skipped) == sorted(BAD)
    for path, reason in skipped.items():
        assert reason.startswith(BAD[path]), (path, reason)
        assert "\n" not in reason
    used = names(dataset.train, odd_folder) + names(dataset.validation, odd_folder)
    assert len(used) == len(set(used)) == 20 + 9
    everything = [
        path
        for path in odd_folder.rglob("*")
        if not path.is_dir() and path.suffix in (".png", ".jpg", ".gif")
    ]
    litter = [path for path in everything if path.name in (".hidden.png", "copy.png")]
    assert len(used) + len(skipped) == len(everything) - len(litter) + 1  # `up` is a folder
    assert dataset.image_shape == (8, 8, 3)
    for part in (dataset.train, dataset.validation):
        assert part.fetch(np.arange(len(part))).shape == (len(part), 8, 8, 3)
    assert any("1 of 29 images are resized to" in note for note in dataset.notes)
    assert any("grayscale" in note for note in dataset.notes)
    assert tree_digest(odd_folder) == before


def test_a_strict_opening_stops_at_the_first_bad_file(odd_folder):
    before = tree_digest(odd_folder)
    with pytest.raises(DataError, match=r"^10 of 39 files in .*bad\\nname\.png: not an image") as e:
        opened(odd_folder, strict=True)
    assert "\n" not in str(e.value)
    assert e.value.exit_code == 1
    assert tree_digest(odd_folder) == before


def test_a_folder_of_bad_files_only_is_an_error(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
    with pytest.raises(DataError, match=r"2 of 2 files .*cat/x\.png: empty file"):
        opened(tmp_path)


def test_the_order_in_which_the_system_lists_files_does_not_matter(tmp_path, monkeypatch):
    folder_of(tmp_path)
    first = opened(tmp_path)
    listing = os.scandir

    class Reversed:
        def __init__(self, path):
            with listing(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(os, "scandir", Reversed)
    second = opened(tmp_path)
    assert second.fingerprint == first.fingerprint
    assert second.train.names == first.train.names
    assert second.validation.names == first.validation.names


def test_the_seed_of_python_and_the_place_of_the_folder_do_not_matter(tmp_path):
    folder_of(tmp_path / "here", classes=("a", "b", "c", "d"))
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "moved")
    code = (
        "import sys\n"
        "from cnnforge.data import DataOptions\n"
        "from cnnforge_plugins.datasets.images import load\n"
        "dataset = load(sys.argv[1], DataOptions())\n"
        "print(dataset.fingerprint, dataset.classes, dataset.train.labels.tolist())\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / folder)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, folder in (("1", "here"), ("2", "here"), ("3", "there/moved"))
    }
    assert len(outputs) == 1


def test_the_fingerprint_changes_with_content_name_class_and_split(tmp_path):
    folder_of(tmp_path)
    prints = [opened(tmp_path).fingerprint, opened(tmp_path, seed=1).fingerprint]
    prints.append(opened(tmp_path, color="rgb").fingerprint)
    draw(tmp_path / "cat" / "0.png", seed=99)
    prints.append(opened(tmp_path).fingerprint)
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / "00.png")
    prints.append(opened(tmp_path).fingerprint)
    (tmp_path / "cat").rename(tmp_path / "bird")
    prints.append(opened(tmp_path).fingerprint)
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_the_folders_of_a_split_are_the_split(tmp_path, validation):
    folder_of(tmp_path / "train", count=3)
    for name in ("cat", "dog"):
        draw(tmp_path / validation / name / "new.png", seed=7)
    dataset = opened(tmp_path, validation_fraction=0.9)
    assert dataset.classes == ("cat", "dog")
    assert [name.split("/")[0] for name in names(dataset.train, tmp_path)] == ["train"] * 6
    assert names(dataset.validation, tmp_path) == [
        f"{validation}/{name}/new.png" for name in ("cat", "dog")
    ]
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.validation.labels.tolist() == [0, 1]


def test_other_folders_beside_a_split_are_told(tmp_path):
    for part in ("train", "val", "test"):
        folder_of(tmp_path / part, count=2)
    folder_of(tmp_path / "more", count=1)
    dataset = opened(tmp_path)
    (note,) = (note for note in dataset.notes if "a test at the end" in note)
    assert note == (
        "training on 'train', validation on 'val' and a test at the end on 'test', not of 'more'"
    )
    assert {name.split("/")[0] for name in names(dataset.test, tmp_path)} == {"test"}
    evaluated = opened(tmp_path, purpose="evaluation")
    assert (len(evaluated.train), len(evaluated.test)) == (8, 4)
    # The caller chooses the part, so the note has to be true of both.
    assert evaluated.notes[0] == (
        "the test part is 'test', and the other images are those of 'train', 'val', not of 'more'"
    )
    assert opened(tmp_path, purpose="prediction").test is None


def test_a_class_only_in_the_test_split_is_an_error(tmp_path):
    for part in ("train", "val", "test"):
        folder_of(tmp_path / part, count=2)
    draw(tmp_path / "test" / "bird" / "1.png")
    with pytest.raises(DataError, match=r"class 'bird' has images in 'test' and none in 'train'"):
        opened(tmp_path)


def test_a_test_folder_without_labels_is_no_split(tmp_path):
    folder_of(tmp_path / "train")
    draw(tmp_path / "test" / "1.png")
    dataset = opened(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train), len(dataset.validation)) == (16, 4)
    assert "the images are those of 'train', not of 'test'" in dataset.notes


def test_a_class_without_training_images_is_an_error(tmp_path):
    for part in ("train", "val"):
        folder_of(tmp_path / part, count=2)
    draw(tmp_path / "val" / "bird" / "1.png")
    (tmp_path / "train" / "bird").mkdir()
    with pytest.raises(DataError, match=r"class 'bird' has images in 'val' and none in 'train'"):
        opened(tmp_path)


def test_a_class_without_validation_images_is_noted(tmp_path):
    for part in ("train", "val"):
        folder_of(tmp_path / part, count=2)
    draw(tmp_path / "train" / "bird" / "1.png")
    dataset = opened(tmp_path)
    assert dataset.classes == ("bird", "cat", "dog")
    assert "no images for validation in 'val': 'bird'" in dataset.notes


def test_copies_in_both_splits_are_counted(tmp_path):
    for part in ("train", "val"):
        folder_of(tmp_path / part, count=2)
    draw(tmp_path / "val" / "cat" / "new.png")
    notes = opened(tmp_path).notes
    assert any(note.startswith("4 of 5 validation images are exact copies") for note in notes)


def test_the_median_size_is_the_size_of_all(tmp_path):
    folder_of(tmp_path, count=3, size=(12, 10))
    draw(tmp_path / "cat" / "small.png", size=(5, 6))
    draw(tmp_path / "cat" / "large.png", size=(50, 6))
    dataset = opened(tmp_path)
    assert dataset.image_shape == (12, 10, 1)
    assert dataset.notes == ("2 of 8 images are resized to 12x10: their size is 5x6 to 50x6",)
    tie = folder_of(tmp_path / "tie", count=2, size=(12, 10))
    for name in ("cat", "dog"):
        draw(tie / name / "a.png", size=(9, 10))
        draw(tie / name / "b.png", size=(9, 10))
    assert opened(tie).image_shape == (9, 10, 1)
    assert opened(tie, image_size=(4, 3)).image_shape == (4, 3, 1)


def test_color(tmp_path):
    folder_of(tmp_path, count=3)
    assert opened(tmp_path).image_shape == (8, 8, 1)
    assert opened(tmp_path, color="rgb").image_shape == (8, 8, 3)
    draw(tmp_path / "cat" / "color.png", color=True)
    dataset = opened(tmp_path)
    assert dataset.image_shape == (8, 8, 3)
    assert dataset.notes == ("6 of 7 images are grayscale; all are read as rgb",)
    assert opened(tmp_path, color="grayscale").image_shape == (8, 8, 1)


def test_what_belongs_to_no_class_is_told(tmp_path):
    folder_of(tmp_path)
    draw(tmp_path / "loose.png")
    (tmp_path / "docs").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").touch()
    dataset = opened(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.skipped) == 1
    assert dataset.notes[0].startswith("1 image in ")
    assert dataset.notes[1].endswith("'broken' (1 file: empty file), 'docs'")


def test_a_class_of_one_image_is_trained_on_and_told(tmp_path):
    folder_of(tmp_path)
    draw(tmp_path / "bird" / "1.png")
    dataset = opened(tmp_path)
    assert 0 in dataset.train.labels
    assert 0 not in dataset.validation.labels
    assert "'bird'" in dataset.notes[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "there is no image in the class folders"),
        (["cat/a.svg", "cat/b.svg", "dog/c"], r"2 of 2 files .*cat/a\.svg: SVG pictures are not"),
        (["cat/a.txt", "cat/b.txt", "dog/c"], r"2 \.txt, 1 without ending.*\.png"),
        (
            ["cat/a.svg", "cat/b.svg", "dog/1.png"],
            r"one class only, 'dog'.*no image of 'cat' can be read \(2 files: SVG",
        ),
        (["cat/a.avi", "dog/1.png"], r"one class only, 'dog'.*'cat' can be read \(only 1 \.avi\)"),
        (["1.png", "2.png"], "2 images in .*, but not in a class folder"),
        (["cat/1.png", "cat/2.png"], "one class only, 'cat'"),
        (["cat/1.png", "dog/1.png"], "nothing is left for validation"),
        (["train/1.png", "val/1.png"], "1 image in .*train, but not in a class folder"),
        (["train/1.png", "test/1.png"], "1 image in .*train, but not in a class folder"),
        (["train/cat/1.png", "val/cat/1.png"], "one class only, 'cat'"),
    ],
)
def test_a_folder_that_is_no_dataset_is_an_error(tmp_path, files, message):
    for file in files:
        path = tmp_path / file
        if path.suffix == ".png":
            draw(path)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
    with pytest.raises(DataError, match=message) as raised:
        opened(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_missing_folder_is_the_users_mistake(tmp_path):
    with pytest.raises(UsageError, match=r"missing does not exist"):
        opened(tmp_path / "missing")
    with pytest.raises(UsageError, match="images needs a folder"):
        load(None, DataOptions())
