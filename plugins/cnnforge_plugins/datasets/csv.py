"""Open a csv file with one image per row, in the form of Kaggle: `label,pixel0,pixel1,...`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from cnnforge.data import (
    DataOptions,
    Dataset,
    dataset_from_arrays,
    printable,
    unlabelled_from_arrays,
)
from cnnforge.errors import DataError, UsageError

MAX_LABEL = 65535
"""Max label that is accepted. There is a class for each number from 0 to the max label of the file.
A larger label suggests that the column does not contain labels."""

_CHUNK = 2048


class Table(NamedTuple):
    """The content of a csv file with one image per row.

    Attributes:
        pixels: (N, P) uint8, the P values of each image.
        labels: (N,) int32; `None` if the file has no labels.
    """

    pixels: np.ndarray
    labels: np.ndarray | None


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open a csv file with a label and the pixels of one image in each row.

    The pixels are in row-major order, with the channels of a pixel next to each other. A row of k*k
    values is a square grayscale image, and a row of 3*k*k values a square RGB image; for other
    sizes, set `image_size` in the options. The labels are whole numbers, and the classes are `"0"`
    to the max label. If the options do not require labels, the file need not have them; the header
    then contains only names of pixels, as in Kaggle's test.csv.

    Args:
        argument: The path of the file.
        options: Options of the dataset.

    Returns:
        The dataset. Its samples have names such as `"row 17 of FILE"`. Rows are counted from 1
        without the header.

    Raises:
        UsageError: If there is no such file, or the size of its images is unknown.
        DataError: If the file is empty, has only one class, or has a line that is not a label and
            pixels; the message names the line.
    """
    if argument is None:
        raise UsageError("csv needs a file: write csv:FILE, for instance csv:train.csv")
    path = os.path.expanduser(argument)
    table = read_table(path, need_labels=options.need_labels)
    shape = _image_shape(path, table.pixels.shape[1], options.image_size)
    file_name = printable(os.path.basename(path))
    name = f"csv:{os.path.abspath(path)}"
    names = [f"row {row} of {file_name}" for row in range(1, len(table.pixels) + 1)]
    images = table.pixels.reshape(-1, *shape)
    if table.labels is None:
        return unlabelled_from_arrays(name, images, names=names, options=options)
    return dataset_from_arrays(
        name,
        images,
        table.labels,
        names=names,
        classes=[str(label) for label in range(int(table.labels.max()) + 1)],
        options=options,
    )


def read_table(path: str, *, need_labels: bool = True) -> Table:
    """Read the labels and the pixels of all images in a csv file.

    The first line may be a header. The labels are in the column `label` of the header. Without such
    a column, they are in the first column.

    Args:
        path: The file, comma-separated text.
        need_labels: Whether a file without labels is an error.

    Returns:
        The table.

    Raises:
        UsageError: If there is no such file.
        DataError: If a line is not a label and pixels; the message names the line.
    """
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UsageError(f"the csv file {printable(path)} {what}: give an existing file")
    try:
        # Excel writes a byte-order mark at the start of a file. This encoding removes the mark.
        with open(path, encoding="utf-8-sig") as file:
            lines = ((n, line) for n, line in enumerate(file, 1) if line.strip())
            return _read(path, lines, need_labels)
    except UnicodeDecodeError as error:
        raise DataError(f"{printable(path)} is not text: expected a csv file ({error})") from error
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error


def _read(path: str, lines: Iterator[tuple[int, str]], need_labels: bool) -> Table:
    first = next(lines, None)
    if first is None:
        raise DataError(f"{printable(path)} is empty: expected rows of a label and pixels")
    names = [field.strip().strip('"').lower() for field in first[1].split(",")]
    columns = len(names)
    if columns < 2:
        raise DataError(
            f"{printable(path)}, line {first[0]}: one column, expected a label and pixels, "
            "separated by commas"
        )
    label_column: int | None = names.index("label") if "label" in names else 0
    pending = [first]
    if "label" in names or sum(not _is_number(name) for name in names) > columns // 2:
        if names[0].startswith("pixel") and "label" not in names:
            if need_labels:
                raise DataError(
                    f"{printable(path)}, line {first[0]}: no column is named label, and without "
                    "labels nothing can be trained or evaluated; 'cnnforge predict' needs none"
                )
            label_column = None
        pending = []
    pixels, labels = [], []
    while chunk := pending + list(islice(lines, _CHUNK)):
        pending = []
        values = _fast(chunk, columns, label_column)
        if values is None:
            values = np.array([_row(path, n, line, columns, label_column) for n, line in chunk])
        if label_column is not None:
            labels.append(values[:, label_column].astype(np.int32))
            values = np.delete(values, label_column, axis=1)
        pixels.append(values.astype(np.uint8))
    if not pixels:
        raise DataError(f"{printable(path)} has a header and no rows: expected at least two")
    return Table(np.concatenate(pixels), np.concatenate(labels) if labels else None)


def _fast(
    chunk: list[tuple[int, str]], columns: int, label_column: int | None
) -> np.ndarray | None:
    """Parse many lines at once, which is faster than parsing each line with `_row`.

    Returns:
        (rows, columns) int32. `None` if a line may be wrong. The caller must then call `_row` for
        each line, which raises a clear error for a wrong line.
    """
    try:
        values = np.loadtxt(
            [line for _, line in chunk], delimiter=",", dtype=np.int32, ndmin=2, comments=None
        )
    # The type of the exception depends on the version of NumPy, so catch all types.
    except Exception:
        return None
    if values.shape != (len(chunk), columns) or values.min() < 0:
        return None
    over = np.count_nonzero(values > 255)
    # A label may be greater than 255, but a pixel must not. So do not count the labels above 255.
    if label_column is not None:
        labels = values[:, label_column]
        over -= np.count_nonzero(labels > 255)
        if labels.max() > MAX_LABEL:
            return None
    return None if over else values


def _row(path: str, number: int, line: str, columns: int, label_column: int | None) -> list[int]:
    """Parse one line. An error message contains the line number, the column and the cause."""
    place = f"{printable(path)}, line {number}"
    fields = [field.strip().strip('"') for field in line.rstrip("\r\n").split(",")]
    if len(fields) != columns:
        raise DataError(f"{place}: {len(fields)} columns, expected {columns} as in the first line")
    values = []
    for column, field in enumerate(fields):
        where = f"{place}, column {column + 1}"
        is_label = column == label_column
        what = "a label is a whole number from 0 up" if is_label else "a pixel is a whole number"
        # Do not accept underscores: float() would read "1_0" as ten.
        if not _is_number(field) or "_" in field:
            raise DataError(f"{where}: {field[:40]!r} is not a number; {what}")
        number_read = float(field)
        if not (math.isfinite(number_read) and number_read.is_integer()):
            raise DataError(f"{where}: {field[:40]!r} is not a whole number; {what}")
        max_value = MAX_LABEL if is_label else 255
        if not 0 <= number_read <= max_value:
            kind = "label" if is_label else "pixel"
            raise DataError(f"{where}: the {kind} {field[:40]} is not in 0..{max_value}")
        values.append(int(number_read))
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _image_shape(
    path: str, pixels: int, image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    """Return the shape (H, W, C) of an image that has `pixels` values."""
    for channels in (1, 3):
        if image_size and channels * math.prod(image_size) == pixels:
            return (*image_size, channels)
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if channels * side * side == pixels:
            return side, side, channels
    received = "" if image_size is None else f", and not {image_size[0]} x {image_size[1]} either"
    raise UsageError(
        f"{printable(path)} has {pixels} pixels in a row, which is not a square image of one or "
        f"three channels{received}: give the size, for instance --image-size HEIGHTxWIDTH"
    )
