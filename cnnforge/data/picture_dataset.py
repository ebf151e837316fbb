"""Make a dataset from image files: decode them once, choose a size and a color, and split them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from cnnforge.data.dataset import DataOptions, Dataset, Inspection, SkippedFile
from cnnforge.data.digests import Split, duplicates_note, fingerprint
from cnnforge.data.files import ImageFiles, check_files
from cnnforge.data.findings import appearance_notes
from cnnforge.data.folder import Role
from cnnforge.data.images import CheckedImage, UnreadableImage
from cnnforge.data.sizes import choose_size
from cnnforge.data.split import choose_parts
from cnnforge.data.stored import ImageSource, StoredImage
from cnnforge.errors import DataError
from cnnforge.utils.names import normal_name, printable


class PictureFile(NamedTuple):
    """An image file, with what the data say about it.

    Attributes:
        path: The file.
        class_name: Name of its class; `None` if it has no label.
        split: `"train"`, `"validation"` or `"test"` if the data say where it belongs; empty
            otherwise.
        id: The id that the data give the picture; `None` if they give none.
        stored: Its place in another file, if it is not a file of its own.
    """

    path: str
    class_name: str | None = None
    split: Role | Literal[""] = ""
    id: str | None = None
    stored: StoredImage | None = None

    @property
    def source(self) -> ImageSource:
        """Return the source of the pixels, for `read_image`."""
        return self.stored or self.path


class Picture(NamedTuple):
    """An image file that was decoded without error.

    Attributes:
        file: The file.
        checked: Its properties.
    """

    file: PictureFile
    checked: CheckedImage


def check_pictures(
    root: str,
    files: Sequence[PictureFile],
    options: DataOptions,
    skipped: Sequence[SkippedFile] = (),
) -> tuple[list[Picture], tuple[SkippedFile, ...]]:
    """Decode every file once, so that an unreadable file is found before training.

    Args:
        root: Folder or table that the user named, for messages.
        files: The files.
        options: Options of the dataset; `strict` makes an unreadable file an error.
        skipped: Files that were already skipped.

    Returns:
        The readable files in their order, and all skipped files, sorted by path.

    Raises:
        DataError: If files were skipped, and none is left or `strict` is set.
    """
    results = check_files([file.source for file in files])
    pictures: list[Picture] = []
    left_out = list(skipped)
    for file, result in zip(files, results, strict=True):
        if isinstance(result, UnreadableImage):
            left_out.append(SkippedFile(file.path, result.reason))
        else:
            pictures.append(Picture(file, result))
    left_out.sort()
    if left_out and (options.strict or not pictures):
        first = left_out[0]
        fix = "convert, repair or remove them"
        if options.strict:
            fix += ", or leave out --strict to skip them"
        raise DataError(
            f"{len(left_out)} of {len(files) + len(skipped)} files in {printable(root)} cannot be "
            f"read, the first is {printable(first.path)}: {first.reason}; {fix}"
        )
    return pictures, tuple(left_out)


def dataset_from_files(
    name: str,
    root: str,
    pictures: Sequence[Picture],
    classes: Sequence[str],
    options: DataOptions,
    *,
    skipped: Sequence[SkippedFile] = (),
    notes: Sequence[str] = (),
    id_name: str = "",
    skipped_ids: Sequence[str] = (),
) -> Dataset:
    """Make a dataset from readable image files.

    `choose_parts` splits the files, as they say themselves.

    Args:
        name: Name of the dataset.
        root: Folder that contains the files; it is not part of the names in the fingerprint.
        pictures: The files, at least one. Either all have a class or none.
        classes: The names of the classes; empty if the files have no labels.
        options: Options of the dataset.
        skipped: The files that cannot be used.
        notes: Messages for the user; those about size, color and split are added.
        id_name: Name of the ids that the files have, for the heading of a submission. If it is
            empty, the ids are the names of the files, see `file_ids`.
        skipped_ids: The ids of `skipped`, if `id_name` is given.

    Returns:
        The dataset.

    Raises:
        DataError: If the files cannot be split, see `choose_parts`.
    """
    left_out = ""
    if skipped:
        left_out = (
            f"; {len(skipped)} files were left out, the first is {printable(skipped[0].path)}: "
            f"{skipped[0].reason}"
        )
    if not id_name:
        all_ids = file_ids([*(each.file.path for each in pictures), *(f.path for f in skipped)])
        id_name, skipped_ids = "id", all_ids[len(pictures) :]
        pictures = [
            each._replace(file=each.file._replace(id=own))
            for each, own in zip(pictures, all_ids, strict=False)
        ]
    checked = [picture.checked for picture in pictures]
    image_shape, shape_notes = _image_shape(checked, options)
    inspection = None
    if options.purpose == "inspection":
        inspection, shape_notes = Inspection([each.file.split for each in pictures], checked), ()
    labels = _labels(pictures, classes)
    rows = choose_parts(
        name, labels, classes, [each.file.split for each in pictures], options, left_out=left_out
    )
    parts = [[pictures[int(row)] for row in part] for part in rows.parts]
    splits = tuple(
        Split(
            labels[part],
            [_name(each.file.path, root) for each in chosen],
            [each.checked.digest for each in chosen],
        )
        for part, chosen in zip(rows.parts, parts, strict=True)
    )
    train, validation, test = (
        ImageFiles(
            [each.file.source for each in chosen],
            split.labels,
            image_shape,
            [each.file.id or "" for each in chosen],
            options.placing,
        )
        for chosen, split in zip(parts, splits, strict=True)
    )
    return Dataset(
        name=name,
        classes=tuple(classes),
        train=train,
        validation=validation,
        fingerprint=fingerprint(classes, image_shape, splits[0], splits[1]),
        skipped=tuple(skipped),
        notes=(
            *notes,
            *shape_notes,
            *appearance_notes([(each.file.path, each.checked) for each in pictures]),
            *rows.notes,
            *duplicates_note(*(split.digests for split in splits)),
        ),
        labelled=bool(classes),
        splits=(splits[0], splits[1]),
        id_name=id_name,
        skipped_ids=tuple(skipped_ids),
        inspection=inspection,
        test=test if len(test) else None,
        test_digests=splits[2].digests,
    )


def file_ids(paths: Sequence[str]) -> list[str]:
    """Return a text for each file that tells it from the others, as short as possible.

    Args:
        paths: N files.

    Returns:
        N texts: the names of the files without ending; if these are not unique, the paths below the
        folder that contains all files.
    """
    stems = [normal_name(os.path.splitext(os.path.basename(path))[0]) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    absolute = [os.path.abspath(path) for path in paths]
    folder = os.path.commonpath([os.path.dirname(path) for path in absolute])
    # `os.path.relpath` is slow for many files.
    below = (path[len(folder) :].lstrip(os.sep) for path in absolute)
    return [normal_name(path.replace(os.sep, "/")) for path in below]


def _image_shape(
    checked: Sequence[CheckedImage], options: DataOptions
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Return the shape (H, W, C) for all images, and notes about images that have another shape."""
    size, note = choose_size(Counter(image.size for image in checked), options)
    notes = [note] if note else []
    gray = sum(image.grayscale for image in checked)
    if options.color == "auto":
        channels = 1 if gray == len(checked) else 3
        if 0 < gray < len(checked):
            notes.append(f"{gray} of {len(checked)} images are grayscale; all are read as rgb")
    else:
        channels = 1 if options.color == "grayscale" else 3
    return (*size, channels), tuple(notes)


def _labels(pictures: Sequence[Picture], classes: Sequence[str]) -> np.ndarray:
    if not classes:
        return np.zeros(len(pictures), np.int32)
    index: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    return np.array([index[picture.file.class_name] for picture in pictures], np.int32)


def _name(path: str, root: str) -> str:
    # The name must not depend on the Unicode form in which a file system stores it, nor on the
    # separator of the operating system.
    return normal_name(os.path.relpath(path, root).replace(os.sep, "/"))
