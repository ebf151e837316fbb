"""Open a folder of images as a dataset. The folder has one sub-folder for each class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cnnforge.data import (
    IMAGE_SUFFIXES,
    CheckedImage,
    DataOptions,
    Dataset,
    ImageFiles,
    ImageListing,
    SkippedFile,
    Split,
    UnreadableImage,
    check_files,
    duplicates_note,
    find_classes,
    find_images,
    find_splits,
    fingerprint,
    printable,
    singleton_classes_note,
    stratified_split,
)
from cnnforge.errors import DataError, UsageError


class Image(NamedTuple):
    """The path of a readable image file, and the name of its class."""

    path: str
    class_name: str
    checked: CheckedImage


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
    images, skipped = _check(folder, found, options.strict)
    classes = _classes(folder, found, images)
    everything = [image for part in images.values() for image in part]
    image_shape, shape_notes = _image_shape([image.checked for image in everything], options)
    notes += _left_out(found, images, list(parts.values())) + shape_notes
    if len(parts) == 2:
        train, validation = images.values()
    else:
        labels = np.array([classes.index(image.class_name) for image in everything])
        rows = stratified_split(labels, options.validation_fraction, options.seed)
        train, validation = ([everything[row] for row in part] for part in rows)
        notes += singleton_classes_note(labels, classes)
    if not validation:
        raise DataError(
            f"{printable(folder)} has one image of every class: nothing is left for validation"
        )
    splits = [_split(folder, part, classes) for part in (train, validation)]
    return Dataset(
        name=f"images:{os.path.abspath(folder)}",
        classes=classes,
        train=ImageFiles([image.path for image in train], splits[0].labels, image_shape),
        validation=ImageFiles([image.path for image in validation], splits[1].labels, image_shape),
        fingerprint=fingerprint(classes, image_shape, *splits),
        skipped=tuple(skipped),
        notes=notes + duplicates_note(splits[0].digests, splits[1].digests),
        splits=(splits[0], splits[1]),
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


def _check(
    folder: str, found: Mapping[str, Mapping[str, ImageListing]], strict: bool
) -> tuple[dict[str, list[Image]], list[SkippedFile]]:
    """Decode every file once.

    Return two values: the readable images of each split, and a list of the skipped files.
    """
    listed = [
        (split, name, path)
        for split, classes in found.items()
        for name, files in classes.items()
        for path in files.paths
    ]
    images: dict[str, list[Image]] = {split: [] for split in found}
    skipped = [
        file for classes in found.values() for files in classes.values() for file in files.skipped
    ]
    results = check_files([path for _, _, path in listed])
    for (split, name, path), result in zip(listed, results, strict=True):
        if isinstance(result, UnreadableImage):
            skipped.append(SkippedFile(path, result.reason))
        else:
            images[split].append(Image(path, name, result))
    skipped.sort()
    if skipped and (strict or not any(images.values())):
        first = skipped[0]
        count = len(listed) + len(skipped) - _unreadable(results)
        fix = "repair or remove them" + (", or leave out --strict to skip them" if strict else "")
        raise DataError(
            f"{len(skipped)} of {count} files in {printable(folder)} cannot be read, the first is "
            f"{printable(first.path)}: {first.reason}; {fix}"
        )
    return images, skipped


def _unreadable(results: Sequence[CheckedImage | UnreadableImage]) -> int:
    return sum(isinstance(result, UnreadableImage) for result in results)


def _classes(
    folder: str,
    found: Mapping[str, Mapping[str, ImageListing]],
    images: Mapping[str, Sequence[Image]],
) -> tuple[str, ...]:
    """Return the names of the classes that have at least one readable image in any split."""
    present = {split: {image.class_name for image in part} for split, part in images.items()}
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
    images: Mapping[str, Sequence[Image]],
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
    used = {image.class_name for part in images.values() for image in part}
    empty = sorted({name for classes in found.values() for name in classes} - used)
    if empty:
        names = ", ".join(repr(name) for name in empty)
        notes.append(f"not a class, because no image in the folder can be read: {names}")
    return tuple(notes)


def _image_shape(
    checked: Sequence[CheckedImage], options: DataOptions
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Return the shape (H, W, C) for all images, and notes about images that have another shape."""
    sizes = Counter(image.size for image in checked)
    # Choose the most frequent size. If several sizes are equally frequent, choose the one with the
    # fewest pixels.
    frequent = min(sizes, key=lambda size: (-sizes[size], size[0] * size[1], size))
    height, width = options.image_size or frequent
    notes = []
    others = [(size, count) for size, count in sizes.most_common() if size != (height, width)]
    if others:
        others.sort(key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{count} of {h} x {w}" for (h, w), count in others[:3])
        more = f", and {len(others) - 3} more sizes" if len(others) > 3 else ""
        notes.append(
            f"{sum(count for _, count in others)} of {len(checked)} images are of other sizes and "
            f"resized to {height} x {width}: {shown}{more}"
        )
    gray = sum(image.grayscale for image in checked)
    if options.color == "auto":
        channels = 1 if gray == len(checked) else 3
        if 0 < gray < len(checked):
            notes.append(f"{gray} of {len(checked)} images are grayscale; all are read as rgb")
    else:
        channels = 1 if options.color == "grayscale" else 3
    return (height, width, channels), tuple(notes)


def _split(folder: str, images: Sequence[Image], classes: Sequence[str]) -> Split:
    index = {name: label for label, name in enumerate(classes)}
    return Split(
        labels=np.array([index[image.class_name] for image in images], np.int32),
        names=[os.path.relpath(image.path, folder).replace(os.sep, "/") for image in images],
        digests=[image.checked.digest for image in images],
    )
