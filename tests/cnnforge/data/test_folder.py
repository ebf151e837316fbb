import os
import unicodedata

import pytest

from cnnforge.data.folder import (
    find_classes,
    find_images,
    find_run_folders,
    find_splits,
    only_subfolder,
    split_role,
)
from cnnforge.errors import DataError, UsageError


def make(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def relative(root, paths):
    return [os.path.relpath(path, root) for path in paths]


def test_images_are_found_by_their_endings_and_litter_is_passed_over(tmp_path):
    make(
        tmp_path,
        *("b.PNG", "a.jpeg", "sub/c.tif", "notes.txt", "Thumbs.db", ".hidden.png", "no_ending"),
        *(".ipynb_checkpoints/x.png", "__MACOSX/x.png", "sub/.cache/x.png", "desktop.ini"),
    )
    found = find_images(tmp_path)
    assert relative(tmp_path, found.paths) == ["a.jpeg", "b.PNG", "sub/c.tif"]
    assert found.skipped == []
    assert found.others == {".txt": 1, "": 1}
    flat = find_images(tmp_path, recursive=False)
    assert relative(tmp_path, flat.paths) == ["a.jpeg", "b.PNG"]


def test_links_are_followed_once(tmp_path):
    make(tmp_path, "root/a/x.png", "elsewhere/y.png")
    root = tmp_path / "root"
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "other").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "z.png").symlink_to("x.png")
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    (root / "a" / "loop.png").symlink_to("loop.png")
    found = find_images(root)
    assert relative(root, found.paths) == ["a/other/y.png", "a/x.png", "a/z.png"]
    reasons = {os.path.relpath(path, root): reason for path, reason in found.skipped}
    assert reasons == {
        "a/gone.png": "dangling link: nowhere.png does not exist",
        "a/loop.png": "broken link: too many levels of symbolic links",
        "a/up": "link to a folder that contains it",
    }


def test_classes_are_the_folders(tmp_path):
    make(tmp_path, "cat/1.png", "cat/deep/2.png", "dog/1.png", "loose.png", "empty/readme.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    classes = find_classes(tmp_path)
    assert {name: relative(tmp_path, found.paths) for name, found in classes.items()} == {
        "cat": ["cat/1.png", "cat/deep/2.png"],
        "dog": ["dog/1.png"],
        "empty": [],
        "loop": [],
    }
    assert list(classes) == sorted(classes)
    assert [reason for _, reason in classes["loop"].skipped] == [
        "link to a folder that contains it"
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("train/a/1 val/a/1", "train:train validation:val"),
        ("Train/a/1 VALID/a/1", "train:Train validation:VALID"),
        ("train/a/1 validation/a/1", "train:train validation:validation"),
        ("train/a/1 test/a/1", "train:train test:test"),
        ("train/a/1 test/a/1 val/a/1", "train:train validation:val test:test"),
        ("train/a/1 test/1", "train:train"),
        ("train/a/1", "train:train"),
        ("train/1 bus/1", ""),
        ("train/1 bus/1 test/1", ""),
        ("train/1 val/1", "train:train validation:val"),
        ("val/a/1 test/a/1", "validation:val test:test"),
        ("val/1 test/1", ""),
        ("val/a/1 test/a/1 cat/1", ""),
        ("cat/1 dog/1", ""),
        ("test/a/1", ""),
        # Several folders for one purpose.
        ("train/a/1 validation/a/1 val/a/1", "train:train validation:val"),
        ("train/a/1 train2/1 val/a/1", "train:train validation:val"),
        ("train1/1 train2/1 train3/1", ""),
    ],
)
def test_splits(tmp_path, files, expected):
    found = find_splits(make(tmp_path, *(f"{file}.png" for file in files.split())))
    assert " ".join(f"{role}:{name}" for role, name in found.items()) == expected


def test_two_folders_for_training_are_an_error(tmp_path):
    make(tmp_path, "train/a/1.png", "Training/a/1.png", "val/a/1.png")
    with pytest.raises(DataError, match="2 folders for training, train, Training: keep one"):
        find_splits(tmp_path)


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (
            "train",
            "train Training TRAIN train_set Train\u00a0set seg_train training_data train2017",
        ),
        ("train", "01_train TrainImages dataset-train train.split images_train trn trainval"),
        ("validation", "val VALID Validation dev eval val2017 validation_set Val-Data 02.valid"),
        ("test", "test Testing tst seg_test test1 test_images TestSet"),
        (None, "cat training_wheels invalid contest set data images testudo valley trainee 1"),
    ],
)
def test_the_name_of_a_split_has_one_normal_form(role, names):
    assert {name: split_role(name) for name in names.split(" ")} == dict.fromkeys(
        names.split(" "), role
    )


def make_run(folder, *figures):
    make(folder, *(figures or ("curves.png", "confusion_matrix.png", "last/x.npz")))
    (folder / "config.toml").write_text('model = "lenet"\n\n[run]\nformat = 2\n')


def test_run_directories_are_never_data(tmp_path):
    make(tmp_path, "cat/1.png", "dog/1.png", "notes/readme.txt")
    make_run(tmp_path / "runs" / "lenet-data-001")
    make_run(tmp_path / "old" / "2024" / "lenet-data-001")
    (tmp_path / "old" / "2024" / "stopped-at-once").mkdir()
    make_run(tmp_path / "lenet-data-007")
    make_run(tmp_path / "dog" / "lenet-data-001")
    classes = find_classes(tmp_path)
    assert {name: len(found.paths) for name, found in classes.items()} == {
        "cat": 1,
        "dog": 1,
        "notes": 0,
    }
    assert relative(tmp_path, classes["dog"].runs) == ["dog/lenet-data-001"]
    assert relative(tmp_path, find_run_folders(tmp_path)) == ["lenet-data-007", "old", "runs"]
    found = find_images(tmp_path)
    assert relative(tmp_path, found.paths) == ["cat/1.png", "dog/1.png"]
    assert len(found.runs) == 4
    for function in (find_images, find_classes, find_splits):
        with pytest.raises(UsageError, match="lenet-data-007 is a run directory of cnnforge"):
            function(tmp_path / "lenet-data-007")


@pytest.mark.parametrize("text", ['[tool]\nname = "x"\n', "format = 2\n", "[run]\nsteps = 3\n", ""])
def test_a_folder_with_the_settings_of_another_program_is_data(tmp_path, text):
    make(tmp_path, "cat/1.png", "cat/config.toml")
    (tmp_path / "cat" / "config.toml").write_text(text)
    assert len(find_classes(tmp_path)["cat"].paths) == 1


def test_a_damaged_run_is_a_run(tmp_path):
    make_run(tmp_path / "runs" / "x")
    with (tmp_path / "runs" / "x" / "config.toml").open("ab") as file:
        file.write(b"name = r\xe4um\n")
    assert find_classes(tmp_path) == {}


def test_pictures_that_are_not_read_are_listed_with_a_reason(tmp_path):
    make(tmp_path, "a.svg", "b.CR2", "c.nef", "d.psd", "e.xml", "f.png", "g.heic", "h.mp4", "i.dcm")
    found = find_images(tmp_path)
    assert relative(tmp_path, found.paths) == ["f.png", "g.heic"]
    assert dict(found.others) == {".xml": 1, ".mp4": 1}
    reasons = {path[-5:]: reason for path, reason in found.skipped}
    assert list(reasons) == ["a.svg", "b.CR2", "c.nef", "d.psd", "i.dcm"]
    assert reasons["b.CR2"] == reasons["c.nef"]
    assert reasons["a.svg"] == "SVG pictures are not read; save them as PNG or JPEG"


def test_names_that_look_the_same_are_one_class(tmp_path):
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "café")
        make(tmp_path, f"{name}/{form}.png", f"thé/{unicodedata.normalize(form, 'é')}.png")
    make(tmp_path, os.fsdecode(b"schl\xe4cht/1.png"), "two\nlines/1.png", " blank /1.png")
    classes = find_classes(tmp_path)
    assert {name: len(found.paths) for name, found in classes.items()} == {
        "café": 2,
        "schl\\xe4cht": 1,
        "thé": 2,
        "two\\nlines": 1,
        "\\x20blank\\x20": 1,
    }
    assert all(os.path.exists(path) for found in classes.values() for path in found.paths)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("photos/cat/1.png photos/dog/1.png", "photos"),
        ("photos/photos/cat/1.png", "photos"),
        ("photos/cat/1.png __MACOSX/photos/cat/._1.png .DS_Store readme.txt", "photos"),
        ("cat/1.png", None),
        ("cat/1.png cat/more/1.png", None),
        ("photos/cat/1.png 1.png", None),
        ("photos/cat/1.png dog/1.png", None),
        ("photos/readme.txt", None),
        ("1.png", None),
    ],
)
def test_a_folder_in_a_folder_is_found(tmp_path, files, expected):
    assert only_subfolder(make(tmp_path, *files.split())) == expected


def test_a_folder_that_is_not_there_is_the_users_mistake(tmp_path):
    (tmp_path / "file").touch()
    for function in (find_images, find_classes, find_splits):
        with pytest.raises(UsageError, match="missing does not exist"):
            function(tmp_path / "missing")
        with pytest.raises(UsageError, match="file is a file, not a folder"):
            function(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_listed(tmp_path):
    make(tmp_path, "a/closed/x.png", "a/y.png")
    (tmp_path / "a" / "closed").chmod(0)
    try:
        found = find_images(tmp_path)
    finally:
        (tmp_path / "a" / "closed").chmod(0o700)
    assert relative(tmp_path, found.paths) == ["a/y.png"]
    assert [reason for _, reason in found.skipped] == ["permission denied"]


def test_a_folder_that_vanishes_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "a" / "gone").mkdir(parents=True)
    real = os.stat

    def stat(path, *arguments, **keywords):
        if str(path).endswith("gone"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "stat", stat)
    assert find_classes(tmp_path)["a"].paths == []
