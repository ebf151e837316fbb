"""Write what a reader found out about image files as notes for the user."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from cnnforge.data.dataset import SkippedFile
from cnnforge.data.folder import split_role
from cnnforge.data.images import CheckedImage
from cnnforge.utils.names import printable

# Names of folders in data for other tasks than classification.
_STRUCTURE = frozenset(("annotations", "images", "labels", "masks"))
_MAX_SHOWN = 5

ONE_COLOR = "images are one color only"


def skipped_summary(skipped: Sequence[SkippedFile]) -> str:
    """Say why files were skipped, with the number of files for each cause.

    Args:
        skipped: The files.

    Returns:
        One line: the most frequent causes first, each with the first reason. It is empty if no file
        was skipped.
    """
    ordered = list(by_cause((file.path, file.reason) for file in skipped).values())
    shown = [f"{_counted(len(reasons))}: {reasons[0]}" for reasons in ordered[:_MAX_SHOWN]]
    if len(ordered) > _MAX_SHOWN:
        shown.append(f"{_counted(sum(map(len, ordered[_MAX_SHOWN:])))} for other reasons")
    return ", ".join(shown)


def by_cause(skipped: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group the reasons why files were left out, the most frequent cause first.

    Args:
        skipped: Path and reason of each file. The text after the first colon or semicolon of a
            reason describes a single file, so it is not part of the cause.

    Returns:
        A dictionary from each cause to the reasons.
    """
    groups: dict[str, list[str]] = {}
    for _, reason in skipped:
        groups.setdefault(re.split("[;:]", reason, maxsplit=1)[0], []).append(reason)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def other_files(others: Mapping[str, int]) -> str:
    """List the numbers of files that are not pictures, such as `"3 .xml, 1 without ending"`.

    Args:
        others: Number of files by their ending, as in `ImageListing.others`.
    """
    ordered = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    shown = [
        f"{count} {printable(suffix) or 'without ending'}" for suffix, count in ordered[:_MAX_SHOWN]
    ]
    if len(ordered) > _MAX_SHOWN:
        shown.append(f"{sum(count for _, count in ordered[_MAX_SHOWN:])} others")
    return ", ".join(shown)


def left_out_notes(others: Mapping[str, int], runs: Sequence[str]) -> tuple[str, ...]:
    """Return notes about files and folders that are not data.

    Args:
        others: Number of files that are not pictures, by their ending.
        runs: Run directories of cnnforge, or folders of these.
    """
    notes = ()
    if others:
        notes += (f"files that are not pictures are left out: {other_files(others)}",)
    if runs:
        shown = ", ".join(map(printable, runs[:_MAX_SHOWN]))
        more = f" and {len(runs) - _MAX_SHOWN} more" if len(runs) > _MAX_SHOWN else ""
        notes += (f"runs of cnnforge are not data, and left out: {shown}{more}",)
    return notes


def appearance_notes(images: Sequence[tuple[str, CheckedImage]]) -> tuple[str, ...]:
    """Return notes about images that may not show what the user expects.

    Args:
        images: Path and properties of each image.
    """
    texts = {
        "one_color": ONE_COLOR,
        "dark": "images are nearly black",
        "on_black": "images are white on a transparent background: they are shown on black",
        "narrow": "images have 16 bits and only values below 256: they are read as 8-bit images",
    }
    notes = ()
    for name, text in texts.items():
        found = [path for path, image in images if getattr(image, name)]
        notes += count_note(found, len(images), text)
    return notes


def count_note(found: Sequence[str], total: int, text: str) -> tuple[str, ...]:
    """Return a note that some images have a property, or no note if no image has it.

    Args:
        found: Names of the images that have it.
        total: Number of all images.
        text: The property, for instance `"images are nearly black"`.
    """
    if not found:
        return ()
    return (f"{len(found)} of {total} {text}; the first is {printable(found[0])}",)


def class_name_notes(classes: Sequence[str], *, folders: bool = True) -> tuple[str, ...]:
    """Return notes about names of classes that are probably a mistake.

    These are names of splits, such as *train*, and names that differ only in case or in blanks.

    Args:
        classes: The names.
        folders: Whether they may be names of folders. Otherwise, *train* is a vehicle.
    """
    notes = ()
    odd = [name for name in classes if split_role(name) or name.casefold() in _STRUCTURE]
    odd = odd if folders else []
    if odd:
        notes += (
            f"unusual for a class: {quoted(odd)}; give the folder whose sub-folders are the "
            "classes, if these are not",
        )
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(loose_form(name), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            notes += (
                f"{quoted(names)} are {len(names)} classes whose names look alike; make them one "
                "if they are the same",
            )
    return notes


def loose_form(name: str) -> str:
    """Return a name in lower case and without blanks at its ends, to compare it loosely."""
    return name.replace("\\x20", " ").strip().casefold()


def quoted(names: Iterable[str]) -> str:
    """List names in quotation marks, for a message."""
    return ", ".join(f"'{printable(name)}'" for name in names)


def _counted(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"
