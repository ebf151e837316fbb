"""Which image files a folder holds, and which class and split each belongs to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cnnforge.data.dataset import SkippedFile
from cnnforge.data.images import IMAGE_SUFFIXES, printable
from cnnforge.errors import DataError, UsageError

TRAIN_FOLDER = "train"
VALIDATION_FOLDERS = ("val", "valid", "validation", "test")
_IGNORED_FOLDERS = frozenset(("__macosx", "__pycache__", "@eadir", "$recycle.bin"))


@dataclass
class Found:
    """The images below a folder.

    Attributes:
        paths: The image files, sorted by name folder by folder.
        skipped: What looks like an image but cannot be opened: a dangling link, a link to a
            folder that it lies in, a folder that may not be read.
        others: How many files of each other ending were passed over.
    """

    paths: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def find_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> Found:
    """Find image files by their endings, whatever the order in which the system lists them.

    Hidden files and folders, those that operating systems leave behind (`__MACOSX`,
    `Thumbs.db`), and files with other endings are passed over. Links are followed.

    Args:
        folder: Where to look.
        recursive: Whether to look into its sub-folders too.

    Returns:
        What was found.

    Raises:
        UsageError: If there is no such folder.
    """
    folder = _existing(folder)
    found = Found()
    _collect(folder, found, recursive, (_identity(folder),))
    return found


def find_classes(folder: str | os.PathLike[str]) -> dict[str, Found]:
    """Find the images of a folder with one sub-folder for each class.

    Args:
        folder: Where to look.

    Returns:
        Class name to what was found in its folder and below, sorted by name; also for a folder
        without any image. The images that lie in `folder` itself have no class and are left out.

    Raises:
        UsageError: If there is no such folder.
        DataError: If it may not be read.
    """
    folder = _existing(folder)
    classes = {}
    for name in _subfolders(folder):
        found = classes[name] = Found()
        path = os.path.join(folder, name)
        if _identity(path) == _identity(folder):
            found.skipped.append(SkippedFile(path, "link to a folder that it lies in"))
        else:
            _collect(path, found, True, (_identity(folder), _identity(path)))
    return classes


def find_splits(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Find the sub-folders that are splits and not classes.

    They are `train` and one of `val`, `valid`, `validation` and `test`, in this order of
    preference, whatever their case. A `test` folder without class folders, such as comes with a
    competition, has no labels and is no split; if nothing else is there beside `train`, then
    `train` is all there is.

    Args:
        folder: Where to look.

    Returns:
        The names of the training and the validation folder; or of the training folder alone; or
        nothing, where the sub-folders are classes.

    Raises:
        UsageError: If there is no such folder.
        DataError: If it may not be read.
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


def _collect(folder: str, found: Found, recursive: bool, above: tuple[object, ...]) -> None:
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
                found.skipped.append(SkippedFile(entry.path, "link to a folder that it lies in"))
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
    """What a folder holds, sorted by name, without what is never data."""
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
    # Where a file system has no inodes, the resolved path does.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _broken_link(path: str) -> str | None:
    try:
        os.stat(path)
    except FileNotFoundError:
        return f"dangling link to {printable(os.readlink(path))}"
    except OSError as error:
        return f"broken link: {str(error.strerror or error).lower()}"
    return None
