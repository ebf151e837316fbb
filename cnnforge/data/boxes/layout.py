"""Recognize folders with boxes by the names of the files in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice

from cnnforge.data.folder import split_role

_MAX_BYTES = 1 << 20
# The number of files in a folder after which its content is clear.
_MAX_FILES = 200
_KEYS = re.compile(rb"^(?:train|val)\s*:", re.MULTILINE)
# The two lists of COCO, and a key of their entries. A large list may be the only one at the start.
_COCO = (
    (re.compile(rb'"images"\s*:\s*\['), b'"file_name"'),
    (re.compile(rb'"annotations"\s*:\s*\['), b'"bbox"'),
)


def boxes_reader(folder: str | os.PathLike[str]) -> str | None:
    """Find out which dataset reads the boxes in a folder.

    Args:
        folder: The folder.

    Returns:
        `"coco"` if its folder `annotations` has .json files, or it has a file of COCO and a folder
        `images`, or its name ends in .coco.json; `"yolo"` if it has a .yaml file
        that names pictures, or folders `images` and `labels` with .txt files; `"voc"` if it has a
        folder `Annotations` with .xml files, or .xml files. Sub-folders that are splits are
        searched, too. Otherwise `None`.
    """
    top = os.fspath(folder)
    found = _reader(top)
    if found is None:
        inner = (_reader(path) for path in some_folders(top))
        found = next((each for each in inner if each), None)
    return found


def _reader(folder: str) -> str | None:
    endings = {os.path.splitext(name)[1].lower() for name in some_files(folder)}
    yaml_files = _files_with(folder, ".yaml", ".yml")
    if {".yaml", ".yml"} & endings and any(map(_names_pictures, yaml_files)):
        return "yolo"
    subfolders = {os.path.basename(path).lower(): path for path in some_folders(folder)}
    below = {name: _endings_below(path) for name, path in subfolders.items() if name in _NAMES}
    if ".xml" in below.get("annotations", ()) or ".xml" in endings:
        return "voc"
    if ".json" in below.get("annotations", ()):
        return "coco"
    if "images" in below and ".txt" in below.get("labels", ()):
        return "yolo"
    if any(name.lower().endswith(".coco.json") for name in some_files(folder)):
        return "coco"
    if "images" in subfolders and any(map(_is_coco, _files_with(folder, ".json"))):
        # Other sub-folders of the images are classes.
        splits = map(os.path.basename, some_folders(subfolders["images"]))
        return "coco" if all(map(split_role, splits)) else None
    return None


_NAMES = ("annotations", "images", "labels")


def _endings_below(folder: str) -> set[str]:
    """Return the endings of the files in a folder and in its sub-folders."""
    places = [folder, *islice(some_folders(folder), 10)]
    return {os.path.splitext(name)[1].lower() for place in places for name in some_files(place)}


def some_files(folder: str) -> Iterator[str]:
    """Yield the names of the first files in a folder that are not hidden."""
    yield from (entry.name for entry in _entries(folder) if not _is_folder(entry))


def some_folders(folder: str) -> Iterator[str]:
    """Yield the paths of the first sub-folders of a folder that are not hidden."""
    yield from (entry.path for entry in _entries(folder) if _is_folder(entry))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in islice(entries, _MAX_FILES) if entry.name[0] != "."]
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _files_with(folder: str, *endings: str) -> Iterator[str]:
    for name in some_files(folder):
        if name.lower().endswith(endings):
            yield os.path.join(folder, name)


def _names_pictures(path: str) -> bool:
    return bool(_KEYS.search(_start(path)))


def _is_coco(path: str) -> bool:
    start = _start(path)
    return any(key in start and bool(name.search(start)) for name, key in _COCO)


def _start(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return b""
