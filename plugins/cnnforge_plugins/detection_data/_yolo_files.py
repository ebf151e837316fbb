"""Find the pictures, the label files and the names of classes of data in the form of YOLO."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import yaml

from cnnforge.data import (
    IMAGE_SUFFIXES,
    PictureFile,
    Role,
    SkippedFile,
    find_images,
    normal_name,
    printable,
    split_role,
)
from cnnforge.errors import DataError, UsageError, message_of
from cnnforge.utils.structured_text import MALFORMED

_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "classnames.txt")
_SPLIT_KEYS: dict[str, Role] = {"train": "train", "val": "validation", "test": "test"}
_MAX_BYTES = 1 << 22


class Content(NamedTuple):
    """Pictures in the form of YOLO, before their labels are read.

    Attributes:
        root: Folder of the data.
        pictures: The pictures with their splits. A picture may be missing.
        names: The names of the classes by number; empty if the data do not give them.
        key_points: Whether labels have the points of a pose after the box.
        skipped: Pictures that cannot be read, such as those of another format.
    """

    root: str
    pictures: list[PictureFile]
    names: dict[int, str]
    key_points: bool = False
    skipped: Sequence[SkippedFile] = ()


def find_content(given: str) -> Content:
    """Find the pictures and the names of the classes.

    Args:
        given: Absolute path of a YAML file, or of a folder with one, or of a folder of pictures and
            labels.

    Raises:
        UsageError: If there is no such file, or a folder that it names is missing.
        DataError: If the file is damaged.
    """
    if os.path.isdir(given):
        found = yaml_in(given)
        return _from_yaml(found) if found else _from_folder(given)
    if not os.path.isfile(given):
        raise UsageError(
            f"{printable(given)} does not exist: give the file data.yaml, or a folder of pictures "
            "and labels, yolo:FOLDER"
        )
    return _from_yaml(given)


def yaml_in(folder: str) -> str | None:
    """Return the YAML file in a folder that names pictures, or `None`."""
    with os.scandir(folder) as entries:
        paths = sorted(
            entry.path for entry in entries if entry.name.lower().endswith((".yaml", ".yml"))
        )
    found = [path for path in paths if _names_pictures(path)]
    if len(found) > 1:
        usual = [path for path in found if os.path.basename(path).lower().startswith("data")]
        if len(usual) != 1:
            names = ", ".join(printable(os.path.basename(path)) for path in found[:4])
            raise UsageError(
                f"{printable(folder)} has several files that name pictures ({names}): name one of "
                f"them, yolo:{printable(found[0])}"
            )
        found = usual
    return found[0] if found else None


def _names_pictures(path: str) -> bool:
    try:
        return bool({*_SPLIT_KEYS} & {*_load(path)})
    except DataError:
        # A file that is called so is an error that the user has to know.
        return os.path.basename(path).lower().startswith("data")


def _load(path: str) -> Mapping[str, Any]:
    shown = printable(path)
    fix = "expected the keys train, val and names, as YOLO writes them"
    try:
        with open(path, "rb") as file:
            document = yaml.safe_load(file.read(_MAX_BYTES).decode("utf-8-sig"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise DataError(f"{shown} is damaged{where} ({problem}): {fix}") from error
    except OSError as error:
        raise DataError(f"{shown} cannot be read ({error.strerror or error}): {fix}") from error
    # A date or a number that does not exist, or too many brackets.
    except MALFORMED as error:
        raise DataError(f"{shown} is damaged ({message_of(error)}): {fix}") from error
    if not isinstance(document, dict):
        raise DataError(f"{shown} has no keys: {fix}")
    return document


def _from_yaml(path: str) -> Content:
    document, folder = _load(path), os.path.dirname(path)
    shown = printable(path)
    bases = _bases(document.get("path"), folder)
    pictures: list[PictureFile] = []
    skipped: list[SkippedFile] = []
    used: dict[str, str] = {}
    for key, role in _SPLIT_KEYS.items():
        given = document.get(key)
        for entry in given if isinstance(given, list) else [given]:
            if not entry:
                continue
            place = _existing(entry, bases) if isinstance(entry, str) else None
            if place is None:
                looked = ", ".join(printable(base) for base in bases)
                # The test split is optional, and often not there.
                if role == "test":
                    continue
                raise UsageError(
                    f"{shown} names {_shown(entry)} for {key}, which is not there: "
                    f"searched in {looked}; correct {key} or path in the file"
                )
            if place == os.path.dirname(place):
                raise UsageError(
                    f"{shown} names {printable(place)} for {key}, which contains all files of this "
                    f"machine: correct {key} in the file"
                )
            if os.path.isdir(place):
                listing = find_images(place)
                listed = listing.paths
                skipped += listing.skipped
            else:
                listed = _listed(place, bases)
            pictures += [PictureFile(each, split=role) for each in listed]
            used[key] = place
    if "train" not in used and "val" not in used and "test" not in used:
        raise DataError(f"{shown} has no key train or val: it must name the folder of the pictures")
    if len(used) == 1 or used.get("train") == used.get("val"):
        # The same folder for both is a usual way to say that there is no split.
        own = list(dict.fromkeys(each.path for each in pictures if each.split != "test"))
        tested = [each for each in pictures if each.split == "test" and each.path not in {*own}]
        both = "train" if tested and own else ""
        pictures = [PictureFile(path, split=both) for path in own]
        pictures += [each if own else each._replace(split="") for each in tested]
    root = os.path.commonpath([folder, *(os.path.dirname(each.path) for each in pictures)])
    has_points = "kpt_shape" in document
    skipped = list(dict.fromkeys(skipped))
    return Content(root, pictures, _names(document, shown), has_points, skipped)


def _shown(entry: Any) -> str:
    return printable(entry) if isinstance(entry, str) else f"a {type(entry).__name__}"


def _bases(given: Any, folder: str) -> list[str]:
    """Return the folders to which the paths in a file may be relative, the likely ones first."""
    places = [folder]
    if isinstance(given, str) and given:
        text = os.path.expanduser(given.replace("\\", "/"))
        # `path` is often relative to the folder of an installation, which is not known here.
        places = [os.path.join(folder, text), folder, os.path.join(os.path.dirname(folder), text)]
        places.append(os.path.join(folder, os.path.basename(text.rstrip("/"))))
    return list(dict.fromkeys(os.path.normpath(place) for place in places))


def _existing(entry: str, bases: Sequence[str]) -> str | None:
    text = os.path.expanduser(entry.strip().replace("\\", "/"))
    # Exported data often have ../train for a folder next to the file.
    inner = text.lstrip("./")
    for form in (text, inner):
        for base in bases:
            path = os.path.normpath(os.path.join(base, form))
            # A device or a pipe would be read without an end.
            if os.path.isdir(path) or os.path.isfile(path):
                return path
    return None


def _listed(path: str, bases: Sequence[str]) -> Iterator[str]:
    """Yield the pictures that a text file names, one in a line, or the one that `path` is."""
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
        yield path
        return
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror or error}") from error
    places = [os.path.dirname(path), *bases]
    for line in filter(None, lines):
        yield _existing(line, places) or os.path.normpath(os.path.join(places[0], line))


def _names(document: Mapping[str, Any], shown: str) -> dict[int, str]:
    names = document.get("names")
    values = names.values() if isinstance(names, dict) else names if isinstance(names, list) else ()
    # Lists of lists may refer to each other: their text may be longer than the memory.
    if any(isinstance(name, dict | list) for name in values):
        raise DataError(f"{shown}: a name in names is a list, expected one text for each class")
    if isinstance(names, list):
        return {number: _name(name, shown) for number, name in enumerate(names)}
    if isinstance(names, dict):
        try:
            found = {int(key): _name(name, shown) for key, name in names.items()}
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{shown}: the keys of names are not all whole numbers: write 0: NAME and so on"
            ) from None
        return dict(sorted(found.items()))
    count = document.get("nc")
    if isinstance(count, int) and 0 < count < 100_000:
        return {number: str(number) for number in range(count)}
    return {}


def _name(value: Any, shown: str) -> str:
    try:
        return normal_name(str(value))
    except ValueError:
        raise DataError(
            f"{shown}: a name in names is a number of too many digits, expected a text"
        ) from None


def _from_folder(folder: str) -> Content:
    """Find the pictures in a folder without a YAML file."""
    listing = find_images(folder)
    pictures = [
        PictureFile(path, split=_role(os.path.relpath(path, folder))) for path in listing.paths
    ]
    if len({each.split for each in pictures}) == 1:
        pictures = [each._replace(split="") for each in pictures]
    for name in _NAME_FILES:
        for place in (folder, os.path.join(folder, "labels")):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                with open(path, encoding="utf-8-sig", errors="replace") as file:
                    lines = [normal_name(line.strip()) for line in file if line.strip()]
                names = dict(enumerate(lines))
                return Content(folder, pictures, names, skipped=listing.skipped)
    return Content(folder, pictures, {}, skipped=listing.skipped)


def _role(path: str) -> Role | Literal[""]:
    """Return the split of a picture by the folders in its path."""
    for part in os.path.dirname(path).split(os.sep):
        role = split_role(part)
        if role is not None:
            return role
    return ""


def label_places(picture: str) -> list[str]:
    """Return the places where the label file of a picture may be, in the order of the search.

    Args:
        picture: Path of the picture.
    """
    folder, name = os.path.split(picture)
    text = f"{os.path.splitext(name)[0]}.txt"
    parts = folder.split(os.sep)
    twins = []
    for place in range(len(parts) - 1, max(len(parts) - 4, 0), -1):
        if parts[place].lower() in ("images", "image", "imgs", "img", "jpegimages"):
            for twin in ("labels", "Labels"):
                path = os.sep.join([*parts[:place], twin, *parts[place + 1 :]])
                if twin == "labels" or os.path.isdir(path):
                    twins.append(path)
            break
    above, own = os.path.split(folder)
    folders = [*twins, folder, os.path.join(folder, "labels"), os.path.join(above, "labels", own)]
    folders.append(os.path.join(above, "labels"))
    return [os.path.join(place, text) for place in dict.fromkeys(folders)]


def is_label(name: str) -> bool:
    """Return whether a file in a folder of labels is a label file, by its name."""
    return name.lower().endswith(".txt") and name[0] != "." and name.lower() not in _NAME_FILES
