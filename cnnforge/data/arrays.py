"""Make a dataset from NumPy arrays of images and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cnnforge.data.dataset import ArraySamples, DataOptions, Dataset
from cnnforge.data.digests import Split, duplicates_note, fingerprint
from cnnforge.data.files import in_parallel
from cnnforge.data.images import fit
from cnnforge.data.split import singleton_classes_note, stratified_split
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
) -> Dataset:
    """Make a dataset from labelled images: resize, convert and split them.

    If validation images are exact copies of training images, a note of the dataset gives their
    number.

    Args:
        name: The name of the dataset.
        images: (N, H, W, C) uint8; C is 1 or 3.
        labels: (N,) integers, indices into `classes`.
        names: N texts: the origin of each sample, such as a file name without its folder.
        classes: The names of the classes.
        options: Options of the dataset.
        split_seed: Random seed of the split; by default `options.seed`. If it is given, the split
            does not depend on `options.seed`.

    Returns:
        The dataset.

    Raises:
        DataError: If there are fewer than two classes, or nothing is left for validation.
    """
    present = np.unique(labels)
    if len(present) < 2:
        found = f"only the class {classes[present[0]]!r}" if len(present) else "no sample"
        raise DataError(f"{name} holds {found}: classification needs at least two classes")
    height, width, channels = wanted = _wanted(images, options)
    notes: tuple[str, ...] = ()
    if (height, width) != images.shape[1:3]:
        notes += (
            f"all {len(images)} images were resized from {images.shape[1]} x {images.shape[2]} "
            f"to {height} x {width}",
        )
    images = _fitted(images, wanted)
    seed = options.seed if split_seed is None else split_seed
    rows = stratified_split(labels, options.validation_fraction, seed)
    notes += singleton_classes_note(labels, classes)
    if not len(rows[1]):
        raise DataError(f"{name} has one image of every class: nothing is left for validation")
    train, validation = (
        ArraySamples(images[part], labels[part], [names[int(row)] for row in part]) for part in rows
    )
    train_split, validation_split = (
        Split(samples.labels, samples.names, [hashlib.sha256(i).digest() for i in samples.images])
        for samples in (train, validation)
    )
    return Dataset(
        name=name,
        classes=tuple(classes),
        train=train,
        validation=validation,
        fingerprint=fingerprint(classes, (height, width, channels), train_split, validation_split),
        notes=notes + duplicates_note(train_split.digests, validation_split.digests),
    )


def unlabelled_from_arrays(
    name: str, images: np.ndarray, *, names: Sequence[str], options: DataOptions
) -> Dataset:
    """Make a dataset from images without labels: resize and convert them.

    Args:
        name: The name of the dataset.
        images: (N, H, W, C) uint8; C is 1 or 3.
        names: N texts: the origin of each image.
        options: Options of the dataset.

    Returns:
        A dataset with `labelled=False`. Its `train` has all images in the order of `images`.
    """
    images = _fitted(images, _wanted(images, options))
    whole = ArraySamples(images, np.zeros(len(images), np.int32), names)
    empty = ArraySamples(images[:0], whole.labels[:0], ())
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    return Dataset(name, (), whole, empty, digest, labelled=False)


def _wanted(images: np.ndarray, options: DataOptions) -> tuple[int, int, int]:
    """Return the shape (H, W, C) to which the options require the images to be converted."""
    height, width = options.image_size or images.shape[1:3]
    return height, width, {"grayscale": 1, "rgb": 3, "auto": images.shape[3]}[options.color]


def _fitted(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    if images.shape[1:] == image_shape:
        return images
    fitted = np.empty((len(images), *image_shape), np.uint8)

    def fit_one(row: int) -> None:
        pixels = images[row, :, :, 0] if images.shape[3] == 1 else images[row]
        fitted[row] = fit(Image.fromarray(np.ascontiguousarray(pixels)), image_shape)

    in_parallel(fit_one, range(len(images)))
    return fitted
