import os

import pytest

from cnnforge.data.folder import find_classes, find_images, find_splits
from cnnforge.errors import UsageError


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
    assert found.others == {".txt": 1, ".db": 1, "": 1, ".ini": 1}
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
        "a/gone.png": "dangling link to nowhere.png",
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
        (["train/a/1.png", "val/a/1.png"], ("train", "val")),
        (["Train/a/1.png", "VALID/a/1.png"], ("Train", "VALID")),
        (["train/a/1.png", "validation/a/1.png"], ("train", "validation")),
        (["train/a/1.png", "test/a/1.png"], ("train", "test")),
        (["train/a/1.png", "test/a/1.png", "val/a/1.png"], ("train", "val")),
        (["train/a/1.png", "test/1.png"], ("train",)),
        (["train/a/1.png"], ("train",)),
        (["train/1.png", "bus/1.png"], ()),
        (["val/a/1.png", "test/a/1.png"], ()),
        (["cat/1.png", "dog/1.png"], ()),
    ],
)
def test_splits(tmp_path, files, expected):
    assert find_splits(make(tmp_path, *files)) == expected


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
