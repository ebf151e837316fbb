"""Make a dataset from NumPy arrays of images and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cnnforge.data.dataset import ArraySamples, DataOptions, Dataset, Inspection
from cnnforge.data.digests import Split, duplicates_note, fingerprint
from cnnforge.data.files import in_parallel
from cnnforge.data.findings import ONE_COLOR, count_note
from cnnforge.data.images import fit
from cnnforge.data.sizes import choose_size
from cnnforge.data.split import choose_parts
from cnnforge.errors import DataError


def dataset_from_arrays(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    classes: Sequence[str],
    options: DataOptions,
    split_seed: int | None = None,
    splits: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    id_name: str = "",
) -> Dataset:
    """Make a dataset from labelled images: resize and convert them, and split them for training.

    If validation or test images are exact copies of training images, a note of the dataset gives
    their number.

    Args:
        name: The name of the dataset.
        images: (N, H, W, C) uint8; C is 1 or 3.
        labels: (N,) integers, indices into `classes`.
        names: N texts: the origin of each sample, such as a file name without its folder.
        classes: The names of the classes.
        options: Options of the dataset.
        split_seed: Random seed of the split; by default `options.seed`. If it is given, the split
            does not depend on `options.seed`.
        splits: N texts: `"train"`, `"validation"` or `"test"` if the data say where the sample
            belongs, or empty; see `choose_parts`. `None`: the data do not say it.
        ids: N texts: the id that the data give each sample, or `None`.
        id_name: Name of the ids, for the heading of a submission.

    Returns:
        The dataset.

    Raises:
        DataError: There are no samples or no pixels, or `choose_parts` cannot split the samples.
    """
    if not len(images):
        raise DataError(f"{name} holds no sample: expected at least one")
    parts = choose_parts(
        name, labels, classes, splits or [""] * len(labels), options, seed=split_seed
    )
    images, notes = _converted(name, images, names, options)
    notes += parts.notes
    train, validation, test = (
        ArraySamples(
            images[part],
            labels[part],
            [names[int(row)] for row in part],
            None if ids is None else [ids[int(row)] for row in part],
        )
        for part in parts.parts
    )
    split_pair, test_digests = (_split(train), _split(validation)), _split(test).digests
    return Dataset(
        name=name,
        classes=tuple(classes),
        train=train,
        validation=validation,
        fingerprint=fingerprint(classes, images.shape[1:], *split_pair),
        notes=notes + duplicates_note(split_pair[0].digests, split_pair[1].digests, test_digests),
        splits=split_pair,
        id_name=id_name,
        test=test if len(test) else None,
        test_digests=test_digests,
        inspection=Inspection(splits or [""] * len(labels))
        if options.purpose == "inspection"
        else None,
    )


def unlabelled_from_arrays(
    name: str,
    images: np.ndarray,
    *,
    names: Sequence[str],
    options: DataOptions,
    ids: Sequence[str] | None = None,
    id_name: str = "",
) -> Dataset:
    """Make a dataset from images without labels: resize and convert them.

    Args:
        name: The name of the dataset.
        images: (N, H, W, C) uint8; C is 1 or 3.
        names: N texts: the origin of each image.
        options: Options of the dataset.
        ids: N texts: the id that the data give each image, or `None`.
        id_name: Name of the ids, for the heading of a submission.

    Returns:
        A dataset with `labelled=False`. Its `train` has all images in the order of `images`.

    Raises:
        DataError: There are no images or no pixels.
    """
    if not len(images):
        raise DataError(f"{name} holds no image: expected at least one")
    images, notes = _converted(name, images, names, options)
    whole = ArraySamples(images, np.zeros(len(images), np.int32), names, ids)
    empty = ArraySamples(images[:0], whole.labels[:0], ())
    splits = _split(whole), _split(empty)
    return Dataset(
        name=name,
        classes=(),
        train=whole,
        validation=empty,
        fingerprint=hashlib.sha256(images.tobytes()).hexdigest(),
        notes=notes,
        labelled=False,
        splits=splits,
        id_name=id_name,
    )


def _split(samples: ArraySamples) -> Split:
    digests = [hashlib.sha256(image).digest() for image in samples.images]
    return Split(samples.labels, samples.names, digests)


def _converted(
    name: str, images: np.ndarray, names: Sequence[str], options: DataOptions
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert images to the size and the color of the options. Return them with notes."""
    height, width = images.shape[1:3]
    if not (height and width):
        raise DataError(f"{name} has images of {height}x{width} pixels: save images with pixels")
    # Files may have arrays in the order of Fortran.
    images = np.ascontiguousarray(images)
    size, note = choose_size({images.shape[1:3]: len(images)}, options)
    blank = count_note([names[row] for row in _one_color(images)], len(images), ONE_COLOR)
    channels = {"grayscale": 1, "rgb": 3, "auto": images.shape[3]}[options.color]
    return _fitted(images, (*size, channels)), ((note,) if note else ()) + blank


def _one_color(images: np.ndarray) -> list[int]:
    """Return the rows of the images whose pixels all have the same color."""
    rows: list[int] = []
    # The comparison needs an array of the same size, so compare a part of the images at a time.
    for start in range(0, len(images), 1024):
        part = images[start : start + 1024]
        same = (part == part[:, :1, :1]).reshape(len(part), -1).all(axis=1)
        rows += (start + np.flatnonzero(same)).tolist()
    return rows


def _fitted(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    if images.shape[1:] == image_shape:
        return images
    fitted = np.empty((len(images), *image_shape), np.uint8)

    def fit_one(row: int) -> None:
        pixels = images[row, :, :, 0] if images.shape[3] == 1 else images[row]
        fitted[row] = fit(Image.fromarray(np.ascontiguousarray(pixels)), image_shape)

    in_parallel(fit_one, range(len(images)))
    return fitted
