"""Open a folder of images as a dataset. The folder has one sub-folder for each class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from cnnforge.data import (
    IMAGE_SUFFIXES,
    DataOptions,
    Dataset,
    ImageListing,
    Picture,
    PictureFile,
    check_pictures,
    dataset_from_files,
    find_classes,
    find_images,
    find_splits,
    printable,
)
from cnnforge.errors import DataError, UsageError

_SPLITS: tuple[Literal["train", "validation"], ...] = ("train", "validation")


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open a folder of images.

    Each sub-folder is a class. The images of a class are in its sub-folder and in deeper folders.
    If the sub-folders are `train` and `val` (or `valid`, `validation`, `test`), these are the two
    splits, and each contains the folders of the classes. This function decodes every image once, so
    that an unreadable image is found before training.

    Args:
        argument: The path of the folder.
        options: Options of the dataset.

    Returns:
        The dataset. The names of its samples are the paths of the files.

    Raises:
        UsageError: If there is no such folder.
        DataError: If the folder has no readable image or only one class, if a split has no readable
            image of a class, or if a file is unreadable and the option `strict` is set.
    """
    if argument is None:
        raise UsageError("images needs a folder: write images:FOLDER")
    folder = os.path.expanduser(argument)
    parts, notes = _parts(folder)
    found = {name: find_classes(path) for name, path in parts.items()}
    files = [
        PictureFile(path, name, _SPLITS[place] if len(parts) == 2 else "")
        for place, classes in enumerate(found.values())
        for name, listing in classes.items()
        for path in listing.paths
    ]
    unopened = [
        file
        for classes in found.values()
        for listing in classes.values()
        for file in listing.skipped
    ]
    pictures, skipped = check_pictures(folder, files, options, unopened)
    classes = _classes(folder, found, pictures)
    return dataset_from_files(
        f"images:{os.path.abspath(folder)}",
        folder,
        pictures,
        classes,
        options,
        skipped=skipped,
        notes=notes + _left_out(found, pictures, list(parts.values())),
    )


def _parts(folder: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return two values: the folder of each split by its name, and notes for the user.

    Such a folder contains the folders of the classes. Without splits, the only name is `""`.
    """
    splits = find_splits(folder)
    if not splits:
        return {"": folder}, ()
    others = sorted(set(find_classes(folder)) - set(splits))
    used = " and ".join(splits)
    note = f"only {used} of {printable(folder)} is used, not {', '.join(map(printable, others))}"
    return {name: os.path.join(folder, name) for name in splits}, (note,) if others else ()


def _classes(
    folder: str,
    found: Mapping[str, Mapping[str, ImageListing]],
    pictures: Sequence[Picture],
) -> tuple[str, ...]:
    """Return the names of the classes that have at least one readable image in any split."""
    present: dict[str, set[str]] = {split: set() for split in found}
    for picture in pictures:
        place = _SPLITS.index(picture.file.split) if picture.file.split else 0
        present[list(found)[place]].add(picture.file.class_name or "")
    classes = sorted(set().union(*present.values()))
    for split, names in present.items():
        if not names:
            where = os.path.join(folder, split) if split else folder
            raise DataError(_nothing(where, found[split]))
    for split, names in present.items():
        missing = [repr(name) for name in classes if name not in names]
        if missing:
            other = next(name for name in present if name != split)
            raise DataError(
                f"{printable(folder)}: the class {', '.join(missing)} has images in {other!r} and "
                f"none in {split!r}; both need the same class folders"
            )
    if len(classes) < 2:
        raise DataError(
            f"{printable(folder)} holds images of one class only, {classes[0]!r}: put the images "
            "of each class into a sub-folder of its own, at least two"
        )
    return tuple(classes)


def _nothing(folder: str, classes: Mapping[str, ImageListing]) -> str:
    loose = find_images(folder, recursive=False).paths
    endings = ", ".join(sorted(IMAGE_SUFFIXES))
    if loose:
        return (
            f"{len(loose)} image{'s' if len(loose) > 1 else ''} in {printable(folder)}, but not in "
            "a class folder: put the images of each class into a sub-folder of its own"
        )
    others = sum((files.others for files in classes.values()), Counter[str]())
    seen = ", ".join(f"{count} {suffix or 'without ending'}" for suffix, count in others.items())
    seen = f" (but there are other files: {seen})" if seen else ""
    return (
        f"there is no image in the class folders of {printable(folder)}{seen}: expected "
        f"{printable(folder)}/CLASS/FILE with an ending among {endings}"
    )


def _left_out(
    found: Mapping[str, Mapping[str, ImageListing]],
    pictures: Sequence[Picture],
    folders: Sequence[str],
) -> tuple[str, ...]:
    """Return notes for the user about the images and the class folders that are not used."""
    notes = []
    for folder in folders:
        loose = len(find_images(folder, recursive=False).paths)
        if loose:
            notes.append(
                f"{loose} image{'s' if loose > 1 else ''} in {printable(folder)} left out: not in "
                "a class folder"
            )
    used = {picture.file.class_name for picture in pictures}
    empty = sorted({name for classes in found.values() for name in classes} - used)
    if empty:
        names = ", ".join(repr(name) for name in empty)
        notes.append(f"not a class, because no image in the folder can be read: {names}")
    return tuple(notes)
