"""Find the image files in a folder, and the classes and splits among its sub-folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cnnforge.data.dataset import SkippedFile
from cnnforge.data.images import IMAGE_SUFFIXES
from cnnforge.errors import DataError, UsageError
from cnnforge.utils.names import printable

TRAIN_FOLDER = "train"
VALIDATION_FOLDERS = ("val", "valid", "validation", "test")
_IGNORED_FOLDERS = frozenset(("__macosx", "__pycache__", "@eadir", "$recycle.bin"))


@dataclass
class ImageListing:
    """The image files in a folder and its sub-folders.

    Attributes:
        paths: The image files, sorted by name within each folder.
        skipped: Files and folders that cannot be opened: dangling links, links to a folder that
            contains the link, folders without read permission.
        others: Number of files that are not images, by file ending.
    """

    paths: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def find_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> ImageListing:
    """Find the image files in a folder, in the same order on every operating system.

    A file is an image if its ending is that of an image format. Hidden files and folders are
    ignored, and so are those that operating systems create (`__MACOSX`, `Thumbs.db`). Links are
    followed.

    Args:
        folder: The folder.
        recursive: Whether to search its sub-folders too.

    Returns:
        The images.

    Raises:
        UsageError: If there is no such folder.
    """
    folder = _existing(folder)
    found = ImageListing()
    _collect(folder, found, recursive, (_identity(folder),))
    return found


def find_classes(folder: str | os.PathLike[str]) -> dict[str, ImageListing]:
    """Find the images of a folder with one sub-folder for each class.

    Args:
        folder: The folder.

    Returns:
        A dictionary from the name of each class to its images, sorted by name. The images of a
        class are those in its sub-folder and in deeper folders; a class may have no images. Images
        directly in `folder` have no class and are left out.

    Raises:
        UsageError: If there is no such folder.
        DataError: If it cannot be read.
    """
    folder = _existing(folder)
    classes = {}
    for name in _subfolders(folder):
        found = classes[name] = ImageListing()
        path = os.path.join(folder, name)
        if _identity(path) == _identity(folder):
            found.skipped.append(SkippedFile(path, "link to a folder that contains it"))
        else:
            _collect(path, found, True, (_identity(folder), _identity(path)))
    return classes


def find_splits(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Find the sub-folders that are splits (for training and validation) and not classes.

    The training split is the folder `train`. The validation split is the first of `val`, `valid`,
    `validation` and `test` that exists. Names may be in upper or lower case. A `test` folder
    without class folders, as in a competition, has no labels, so it is not a split. If there is no
    validation split, and a sub-folder has a name other than these, all sub-folders are classes,
    even `train`.

    Args:
        folder: The folder.

    Returns:
        A tuple with the names of the training and the validation folder, or of the training folder
        alone; empty if the sub-folders are classes.

    Raises:
        UsageError: If there is no such folder.
        DataError: If it cannot be read.
    """
    folder = _existing(folder)
    names = {name.lower(): name for name in _subfolders(folder)}
    if TRAIN_FOLDER not in names:
        return ()
    for candidate in VALIDATION_FOLDERS:
        if candidate in names and (
            candidate != "test" or _subfolders(os.path.join(folder, names[candidate]))
        ):
            return names[TRAIN_FOLDER], names[candidate]
    others = names.keys() - {TRAIN_FOLDER, *VALIDATION_FOLDERS}
    return () if others else (names[TRAIN_FOLDER],)


def _subfolders(folder: str) -> list[str]:
    try:
        return [entry.name for entry in _entries(folder) if _is_folder(entry)]
    except OSError as error:
        raise DataError(
            f"the folder {printable(folder)} cannot be read: {error.strerror}"
        ) from error


def _existing(folder: str | os.PathLike[str]) -> str:
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise UsageError(
            f"the folder of images {printable(folder)} {what}: "
            "give a folder with one sub-folder of images for each class"
        )
    return folder


def _collect(folder: str, found: ImageListing, recursive: bool, above: tuple[object, ...]) -> None:
    try:
        entries = list(_entries(folder))
    except OSError as error:
        found.skipped.append(SkippedFile(folder, str(error.strerror or error).lower()))
        return
    for entry in entries:
        if _is_folder(entry):
            if not recursive:
                continue
            identity = _identity(entry.path)
            if identity in above:
                found.skipped.append(SkippedFile(entry.path, "link to a folder that contains it"))
            else:
                _collect(entry.path, found, recursive, (*above, identity))
            continue
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix not in IMAGE_SUFFIXES:
            found.others[suffix] += 1
        elif entry.is_symlink() and (reason := _broken_link(entry.path)):
            found.skipped.append(SkippedFile(entry.path, reason))
        else:
            found.paths.append(entry.path)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield the files and folders in a folder, sorted by name, without those that are ignored."""
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if not entry.name.startswith(".") and entry.name.lower() not in _IGNORED_FOLDERS:
            yield entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(path: str) -> object:
    status = os.stat(path)
    # Some file systems have no inode numbers and report 0. Identify the folder by its resolved path
    # then.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _broken_link(path: str) -> str | None:
    try:
        os.stat(path)
    except FileNotFoundError:
        return f"dangling link to {printable(os.readlink(path))}"
    except OSError as error:
        return f"broken link: {str(error.strerror or error).lower()}"
    return None
