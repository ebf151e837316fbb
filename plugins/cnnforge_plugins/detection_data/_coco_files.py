"""Find the files of annotations in the form of COCO, their splits, and the folders of pictures."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from cnnforge.data import Role, printable, split_role
from cnnforge.errors import UsageError
from cnnforge_plugins.datasets.shared.picture_finder import PictureFinder

# Other annotations of the same pictures, in other files than those of the objects.
_OTHER = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
# Words that are part of the name of a file, but not that of its split.
_WORDS = re.compile(r"[_.\- ]+")
_ORDER = ("train", "validation", "test")


class Part(NamedTuple):
    """A file of annotations.

    Attributes:
        path: The file.
        split: The split of its pictures; empty if there is only one file.
    """

    path: str
    split: Role | Literal[""]


def find_parts(given: str) -> list[Part]:
    """Find the files of annotations that an argument means.

    Args:
        given: Absolute path of a file or a folder.

    Returns:
        The files; each one has a split if there are several.

    Raises:
        UsageError: If there is no such file, or the names of several do not tell their splits.
    """
    if os.path.isfile(given):
        if _role_of(given) != "train":
            return [Part(given, "")]
        paths = [given, *(path for path in _relatives(given) if _role_of(path) != "train")]
    elif os.path.isdir(given):
        paths = _in_folder(given)
        if not paths:
            raise UsageError(
                f"there is no .json file in {printable(given)}, its folder annotations or its "
                "sub-folders: give a file of annotations, coco:FILE.json"
            )
    else:
        raise UsageError(
            f"the file of annotations {printable(given)} does not exist: give coco:FILE.json"
        )
    if len(paths) == 1:
        return [Part(paths[0], "")]
    parts = [Part(path, _role_of(path) or "") for path in paths]
    roles = Counter(part.split for part in parts)
    if roles[""] or max(roles.values()) > 1:
        names = ", ".join(printable(os.path.relpath(path, given)) for path in paths[:4])
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        raise UsageError(
            f"{printable(given)} has several files of annotations ({names}{more}), and their names "
            "do not say which one is for training and which for validation: name one of them, "
            f"coco:{printable(paths[0])}"
        )
    return sorted(parts, key=lambda part: _ORDER.index(part.split))


def _in_folder(folder: str) -> list[str]:
    """Return the files of annotations in a folder, or else those in its sub-folders."""
    for places in ([folder], [os.path.join(folder, "annotations")], _subfolders(folder)):
        paths = [path for place in places for path in _json_files(place)]
        if paths:
            return paths
    return []


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and entry.name[0] != ".")


def _json_files(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(".json") and entry.name[0] != "."
            )
    except OSError:
        return []
    objects = [name for name in names if not name.lower().startswith(_OTHER)]
    return [os.path.join(folder, name) for name in objects or names]


def _relatives(path: str) -> list[str]:
    """Return the files whose names or folders differ from those of `path` by the split only."""
    folder, name = os.path.split(path)
    if _role_in(name) is None:
        above = os.path.dirname(folder)
        places = [os.path.join(place, name) for place in _subfolders(above)]
        return [place for place in places if place != path and os.path.isfile(place)]
    family = _family(name)
    others = [os.path.join(folder, each) for each in os.listdir(folder) if _family(each) == family]
    return sorted(other for other in others if other != path)


def _family(name: str) -> tuple[str, ...]:
    return tuple(word for word in _WORDS.split(name.lower()) if not split_role(word))


def _role_in(name: str) -> Role | None:
    stem = os.path.splitext(name)[0]
    return next((role for word in _WORDS.split(stem) if (role := split_role(word))), None)


def _role_of(path: str) -> Role | None:
    """Return the split in the name of a file, or else in that of its folder."""
    folder, name = os.path.split(path)
    return _role_in(name) or split_role(os.path.basename(folder))


def about_parts(parts: Sequence[Part], given: str) -> Iterator[str]:
    if len(parts) > 1:
        top = given if os.path.isdir(given) else os.path.dirname(given)
        uses = [f"{part.split} on {printable(os.path.relpath(part.path, top))}" for part in parts]
        yield f"the splits are those of the files of annotations: {', '.join(uses)}"


def finders_of(part: Part) -> list[PictureFinder]:
    """Return finders for the folder of the annotations, and for the folder above it.

    Args:
        part: The file of annotations.
    """
    folder, name = os.path.split(part.path)
    words = [word for word in _WORDS.split(os.path.splitext(name)[0]) if split_role(word)]
    finders = [PictureFinder(os.path.join(folder, f"{words[0] if words else 'images'}.json"))]
    # Annotations are often in a folder of their own, next to the folders of pictures.
    if os.path.basename(folder).lower().startswith(("annotation", "label", "coco", "json")):
        above = os.path.dirname(folder)
        finders.append(PictureFinder(os.path.join(above, f"{words[0] if words else 'images'}.x")))
    return finders
