"""Find the image files in a folder, and the classes and splits among its sub-folders."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from cnnforge.data.dataset import SkippedFile
from cnnforge.data.formats import IMAGE_SUFFIXES, unread_reason
from cnnforge.errors import DataError, UsageError
from cnnforge.utils.names import normal_name, printable

Role = Literal["train", "validation", "test"]
"""What a split is for."""

# Files and folders that operating systems and programs create.
_IGNORED = frozenset(
    ("__macosx", "__pycache__", "@eadir", "$recycle.bin", "thumbs.db", "ehthumbs.db", "desktop.ini")
)
# The names of splits in their normal form. The first one of a role is used in messages.
_ROLE_NAMES: dict[Role, tuple[str, ...]] = {
    "train": ("train", "training", "trn", "trainval"),
    "validation": (
        *("val", "valid", "validation", "validate", "dev", "development"),
        *("eval", "evaluation", "holdout", "publictest"),
    ),
    "test": ("test", "testing", "tst", "privatetest"),
}
_ROLES: dict[str, Role] = {name: role for role, names in _ROLE_NAMES.items() for name in names}
# Words before or after the name of a split.
_FILLER = "sets?|data|images?|imgs?|pictures?|pics?|photos?|samples?|splits?|folder|part|seg"
_FILLERS = re.compile(f"^(?:{_FILLER})|(?:{_FILLER})$")
_MAX_CONFIG_BYTES = 1 << 20


@dataclass
class ImageListing:
    """The image files in a folder and its sub-folders.

    Attributes:
        paths: The image files, sorted by name within each folder.
        skipped: Pictures and folders that are not read: pictures of other formats, dangling links,
            links to a folder that contains the link, folders without read permission.
        others: Number of files that are not pictures, by file ending.
        runs: Run directories of cnnforge. Their figures are not data, so they are not searched.
    """

    paths: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    runs: list[str] = field(default_factory=list)


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
        UsageError: If there is no such folder, or it is a run directory of cnnforge.
    """
    folder = _existing(folder)
    found = ImageListing()
    _collect(folder, found, recursive, (_identity(folder),))
    return found


def find_classes(folder: str | os.PathLike[str]) -> dict[str, ImageListing]:
    """Find the images of a folder with one sub-folder for each class.

    Sub-folders whose names have the same normal form are one class. A sub-folder that contains only
    run directories of cnnforge is not a class.

    Args:
        folder: The folder.

    Returns:
        A dictionary from the normal name of each class to its images, sorted by name. The images of
        a class are those in its sub-folder and in deeper folders; a class may have no images.
        Images directly in `folder` have no class and are left out.

    Raises:
        UsageError: If there is no such folder, or it is a run directory of cnnforge.
        DataError: If it cannot be read.
    """
    folder = _existing(folder)
    classes: dict[str, ImageListing] = {}
    for name in subfolders(folder):
        found = classes.setdefault(normal_name(name), ImageListing())
        path = os.path.join(folder, name)
        if _identity(path) == _identity(folder):
            found.skipped.append(SkippedFile(path, "link to a folder that contains it"))
        else:
            _collect(path, found, True, (_identity(folder), _identity(path)))
    return classes


def find_run_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Find the sub-folders that are run directories of cnnforge, or contain only these.

    Args:
        folder: The folder.

    Returns:
        Their paths, sorted by name.

    Raises:
        UsageError: If there is no such folder, or it is a run directory of cnnforge.
        DataError: If it cannot be read.
    """
    folder = _existing(folder)
    return [entry.path for entry in _listed(folder) if _is_folder(entry) and _has_runs_only(entry)]


def find_splits(folder: str | os.PathLike[str]) -> dict[Role, str]:
    """Find the sub-folders that are splits (for training, validation and testing), not classes.

    `split_role` finds the role of a sub-folder by its name. A folder for testing without class
    folders, as in a competition, has no labels, so it is not a split. If there is only a folder for
    training, and another sub-folder has a name without a role, all sub-folders are classes.

    Args:
        folder: The folder.

    Returns:
        A dictionary from roles to the names of sub-folders; empty if the sub-folders are classes.

    Raises:
        UsageError: If there is no such folder, or it is a run directory of cnnforge.
        DataError: If it cannot be read, or has several folders for training.
    """
    folder = _existing(folder)
    names = subfolders(folder)
    candidates: dict[Role, list[str]] = {role: [] for role in _ROLE_NAMES}
    for name in names:
        if role := split_role(name):
            candidates[role].append(name)
    complete = sum(map(len, candidates.values())) == len(names)
    for role, found in candidates.items():
        labelled = [name for name in found if subfolders(os.path.join(folder, name))]
        # For training, a folder without class folders is an error that the user has to know.
        candidates[role] = labelled if role == "test" else labelled or found
        candidates[role].sort(key=lambda name: (len(name), name))
    train = candidates["train"]
    measured = candidates["validation"] or candidates["test"]
    if train and measured:
        if len(train) > 1:
            raise DataError(
                f"{printable(folder)} has {len(train)} folders for training, "
                f"{', '.join(map(printable, train))}: keep one of them"
            )
    elif train:
        if not complete or len(train) > 1:
            return {}
    elif not complete or not (candidates["validation"] and candidates["test"]):
        return {}
    return {role: found[0] for role, found in candidates.items() if found}


def split_role(name: str) -> Role | None:
    """Return what a split is for, by the name of its folder or the text in a table.

    Only letters count, and upper and lower case are the same. Words such as *set*, *data* and
    *images* are ignored: `Training`, `train_set`, `seg_train`, `train2017` and `01_train` are all
    for training.

    Args:
        name: The name.

    Returns:
        The role, or `None` if the name is not that of a split.
    """
    letters = "".join(filter(str.isalpha, normal_name(name).casefold()))
    while letters not in _ROLES:
        shorter = _FILLERS.sub("", letters, count=1)
        if shorter == letters:
            return None
        letters = shorter
    return _ROLES[letters]


def only_subfolder(folder: str | os.PathLike[str]) -> str | None:
    """Return the name of a sub-folder that contains all the data of a folder.

    Unpacking an archive often makes such a folder in a folder. It has sub-folders of its own, and
    no images. A folder with images is that of a class.

    Args:
        folder: The folder.

    Returns:
        The name, or `None` if there is no such sub-folder.

    Raises:
        UsageError: If there is no such folder, or it is a run directory of cnnforge.
        DataError: If it cannot be read.
    """
    folder = _existing(folder)
    names = subfolders(folder)
    if len(names) != 1 or _has_pictures(_listed(folder)):
        return None
    inner = os.path.join(folder, names[0])
    if _identity(inner) == _identity(folder):
        return None
    return names[0] if subfolders(inner) and not _has_pictures(_listed(inner)) else None


def subfolders(folder: str | os.PathLike[str]) -> list[str]:
    """Return the names of the sub-folders that may contain data, sorted.

    Hidden folders are left out, and so are those that contain only run directories of cnnforge.

    Args:
        folder: The folder.

    Raises:
        UsageError: If there is no such folder, or it is a run directory of cnnforge.
        DataError: If it cannot be read.
    """
    folder = _existing(folder)
    return [
        entry.name for entry in _listed(folder) if _is_folder(entry) and not _has_runs_only(entry)
    ]


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        return list(_entries(folder))
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
    if _is_run(folder):
        raise UsageError(
            f"{printable(folder)} is a run directory of cnnforge, and its figures are not data: "
            "give a folder of images"
        )
    return folder


def _is_run(folder: str) -> bool:
    try:
        with open(os.path.join(folder, "config.toml"), encoding="utf-8", errors="replace") as file:
            # Do not parse the file: a damaged run is not data either.
            return bool(re.search(r"^\[run\]\s+format = ", file.read(_MAX_CONFIG_BYTES), re.M))
    except OSError:
        return False


def _has_runs_only(entry: os.DirEntry[str]) -> bool:
    return not entry.is_symlink() and bool(_runs_alone(entry.path))


def _runs_alone(folder: str) -> int | None:
    """Return the number of run directories in a folder, or `None` if it contains pictures too."""
    if _is_run(folder):
        return 1
    folders = []
    try:
        # Do not sort: the folder of a class may contain many images, and the first one decides.
        with os.scandir(folder) as entries:
            for entry in filter(_is_seen, entries):
                if _is_folder(entry):
                    folders.append(entry)
                elif _suffix(entry) in IMAGE_SUFFIXES:
                    return None
    except OSError:
        return None
    count = 0
    for entry in folders:
        inside = None if entry.is_symlink() else _runs_alone(entry.path)
        if inside is None:
            return None
        count += inside
    return count


def _has_pictures(entries: list[os.DirEntry[str]]) -> bool:
    return any(_suffix(entry) in IMAGE_SUFFIXES and not _is_folder(entry) for entry in entries)


def _suffix(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower()


def _collect(folder: str, found: ImageListing, recursive: bool, above: tuple[object, ...]) -> None:
    try:
        names, others = _names(folder)
    except OSError as error:
        found.skipped.append(SkippedFile(folder, str(error.strerror or error).lower()))
        return
    for name in names:
        path, entry = os.path.join(folder, name), others.get(name)
        if entry is not None and _is_folder(entry):
            if not recursive:
                continue
            identity = _identity(entry.path)
            if identity in above:
                found.skipped.append(SkippedFile(entry.path, "link to a folder that contains it"))
            elif _is_run(entry.path):
                found.runs.append(entry.path)
            else:
                _collect(entry.path, found, recursive, (*above, identity))
            continue
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in IMAGE_SUFFIXES:
            if reason := unread_reason(suffix):
                found.skipped.append(SkippedFile(path, reason))
            else:
                found.others[suffix] += 1
        elif entry is not None and entry.is_symlink() and (reason := _broken_link(path)):
            found.skipped.append(SkippedFile(path, reason))
        else:
            found.paths.append(path)


def _names(folder: str) -> tuple[list[str], dict[str, os.DirEntry[str]]]:
    """Return the names in a folder as `_entries` sorts them, and the entries of all but files.

    An entry takes three times as much memory as its name, and a folder may have many files.
    """
    names, others = [], {}
    with os.scandir(folder) as listing:
        for entry in filter(_is_seen, listing):
            names.append(entry.name)
            if not entry.is_file(follow_symlinks=False):
                others[entry.name] = entry
    # The keys take more memory than the names. They are rarely needed.
    names.sort(key=None if all(normal_name(name) == name for name in names) else _order)
    return names, others


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield the files and folders in a folder, sorted by name, without those that are ignored."""
    with os.scandir(folder) as listing:
        yield from sorted(filter(_is_seen, listing), key=lambda entry: _order(entry.name))


def _order(name: str) -> tuple[str, str]:
    # The order does not depend on the Unicode form in which a file system stores names.
    return normal_name(name), name


def _is_seen(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name.lower() not in _IGNORED


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:
        # The folder has been deleted, or the folder around it has no permission to open it.
        return os.path.realpath(path)
    # Some file systems have no inode numbers and report 0. Identify the folder by its resolved path
    # then.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _broken_link(path: str) -> str | None:
    try:
        os.stat(path)
    except FileNotFoundError:
        return f"dangling link: {printable(os.readlink(path))} does not exist"
    except OSError as error:
        return f"broken link: {str(error.strerror or error).lower()}"
    return None
