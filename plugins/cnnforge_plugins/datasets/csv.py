"""Open a csv file with one image per row, in the form of Kaggle: `label,pixel0,pixel1,...`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from cnnforge.data import (
    DataOptions,
    Dataset,
    dataset_from_arrays,
    printable,
    split_role,
    unlabelled_from_arrays,
)
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets._columns import (
    Table,
    check_labels_repeat,
    class_labels,
    split_note,
    understand,
)
from cnnforge_plugins.datasets._delimited import is_number, open_delimited
from cnnforge_plugins.datasets._pixel_columns import PixelColumns, find_pixel_columns, shape_of
from cnnforge_plugins.datasets.shared.labels import check_single_labels
from cnnforge_plugins.datasets.table import name_table, names_pictures

_CHUNK = 2048
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_RANGE = "a pixel is a whole number from 0 to 255"


class PixelTable(NamedTuple):
    """The content of a csv file with one image per row.

    Attributes:
        pixels: (N, P) uint8, the P values of each image.
        labels: N labels as the file has them; `None` if the file has no labels.
        ids: N ids; numbers from 1 if the file has no ids.
        id_name: Name of the ids.
        notes: Messages for the user.
        splits: N texts, `"train"`, `"validation"` or `"test"`; `None` if the file has no splits.
    """

    pixels: np.ndarray
    labels: Sequence[str] | None
    ids: Sequence[str]
    id_name: str
    notes: tuple[str, ...]
    splits: Sequence[str] | None = None


def load(argument: str | None, options: DataOptions) -> Dataset:
    """Open a csv file with a label and the pixels of one image in each row.

    The pixels are in row-major order, with the channels of a pixel next to each other. A row of k*k
    values is a square grayscale image, and a row of 3*k*k values a square RGB image; for other
    sizes, set `image_size` in the options. The labels are numbers or words, and those that occur
    are the classes. The file may also have a column with ids, and one that says which images are
    for validation and for testing. For prediction it need not have labels. A file that names
    pictures instead of giving their pixels is opened as `cnnforge_plugins.datasets.table` does.

    Args:
        argument: The path of the file.
        options: Options of the dataset.

    Returns:
        The dataset. Its samples have names such as `"row 17 of FILE"`. Rows are counted from 1
        without the header.

    Raises:
        UsageError: If there is no such file, or the size of its images is unknown.
        DataError: If the file is empty, has too few classes for training, or has a line that is not
            a label and pixels; the message names the line.
    """
    if argument is None:
        raise UsageError("csv needs a file: write csv:FILE, for instance csv:train.csv")
    path = os.path.expanduser(argument)
    table = understand(open_delimited(path))
    _check_decimal_comma(table)
    if names_pictures(table):
        return name_table(table, options)
    content = read_pixels(table, options)
    shape = shape_of(content.pixels.shape[1], options.image_size)
    if shape is None:
        raise UsageError(f"{printable(path)}: the images have an unknown size")
    images = content.pixels.reshape(-1, *shape)
    file_name = printable(os.path.basename(path))
    name = f"csv:{printable(os.path.abspath(path))}"
    names = [f"row {row} of {file_name}" for row in range(1, len(images) + 1)]
    ids, id_name = content.ids, content.id_name
    if content.labels is None:
        dataset = unlabelled_from_arrays(
            name, images, names=names, options=options, ids=ids, id_name=id_name
        )
    else:
        classes, labels = class_labels(content.labels)
        dataset = dataset_from_arrays(
            name,
            images,
            labels,
            names=names,
            classes=classes,
            options=options,
            splits=content.splits,
            ids=ids,
            id_name=id_name,
        )
    return replace(dataset, notes=(*content.notes, *dataset.notes))


def _check_decimal_comma(table: Table) -> None:
    """Check that numbers have no decimal comma, as spreadsheets write them in some languages.

    Raises:
        DataError: If half of the cells of the first row are such numbers. The message contains the
            command that replaces the commas.
    """
    if table.file.delimiter == "," or not table.rows:
        return
    cells = table.rows[0]
    found = [cell for cell in cells if _DECIMAL_COMMA.fullmatch(cell)]
    if 2 * len(found) >= len(cells):
        path = shlex.quote(printable(table.file.path))
        raise DataError(
            f"{printable(table.file.path)} has numbers with a decimal comma, such as {found[0]!r}: "
            f"write them with a point; type: tr , . < {path} > new.csv"
        )


def read_pixels(table: Table, options: DataOptions) -> PixelTable:
    """Read the labels, the ids and the pixels of all images in a table.

    Args:
        table: The table.
        options: Options of the dataset.

    Returns:
        The content.

    Raises:
        UsageError: If the size of the images is unknown.
        DataError: If there are no labels and they are needed, or if a line does not have the
            columns of the first line; the message names the line.
    """
    columns, notes = find_pixel_columns(table, options)
    places = (columns.label, columns.id, columns.split)
    wanted = [column for column in places if column is not None]
    pick = table.file.picker(wanted, table.width)
    lines = table.file.lines()
    if table.names is not None:
        next(lines)
    pixels: list[np.ndarray] = []
    picked: list[list[str]] = []
    while chunk := list(islice(lines, _CHUNK)):
        values = _fast(table, columns, chunk)
        if values is None:
            values = np.array([_row(table, columns, n, line) for n, line in chunk], np.uint8)
        pixels.append(values)
        if wanted:
            picked += [pick(line) for _, line in chunk]
    values = np.concatenate(pixels)
    ids = [str(number) for number in range(1, len(values) + 1)]
    id_name = "ImageId"
    if columns.id is not None:
        place = wanted.index(columns.id)
        ids = [row[place] for row in picked]
        id_name = table.names[columns.id] if table.names is not None else "id"
    labels = None
    if columns.label is not None:
        labels = _checked_labels(table, columns.label, [row[0] for row in picked], options)
    splits = None
    # A prediction is about all rows.
    if columns.split is not None and options.need_labels:
        place = wanted.index(columns.split)
        splits = [split_role(row[place]) or "" for row in picked]
        notes += (f"{table.path}: {split_note(table, columns.split, splits)}",)
    if values.max() <= 1:
        notes += (
            f"{table.path}: all pixels are 0 or 1, so the images are almost black: "
            "multiply the pixels by 255",
        )
    return PixelTable(values, labels, ids, id_name, notes, splits)


def _checked_labels(
    table: Table, column: int, labels: list[str], options: DataOptions
) -> list[str] | None:
    empty = sum(not label for label in labels)
    if empty and not options.need_labels:
        return None
    if empty:
        row = labels.index("") + 1
        raise DataError(
            f"{table.path}: {table.called(column)}, the label, is empty in {empty} "
            f"of {len(labels)} rows, the first is row {row}: fill it in, or remove these rows"
        )
    check_single_labels(f"{table.path}: {table.called(column)}", labels)
    if options.for_training:
        check_labels_repeat(table, column, labels)
    return labels


def _fast(
    table: Table, columns: PixelColumns, chunk: Sequence[tuple[int, str]]
) -> np.ndarray | None:
    """Parse many lines at once, which is faster than parsing each line with `_row`.

    Returns:
        (rows, P) uint8. `None` if a line may be wrong. The caller must then call `_row` for each
        line, which raises a clear error for a wrong line.
    """
    lines, delimiter = [line for _, line in chunk], table.file.delimiter
    usecols: Sequence[int] | None = None
    chosen: slice | Sequence[int] = slice(None)
    width = columns.count
    if columns.count != len(columns.pixels):
        rows = [table.file.cells(line) for line in lines]
        if any(len(row) != table.width for row in rows):
            return None
        lines, delimiter = [row[columns.pixels[0]] for row in rows], None
    elif all(map(table.numeric, columns.others(table.width))):
        # It is faster to parse all columns than to choose some of them.
        chosen, width = columns.chosen(), table.width
    elif delimiter is None or any(line.count(delimiter) != table.width - 1 for line in lines):
        # With `usecols`, NumPy does not notice that a line has too many columns.
        return None
    else:
        usecols = columns.pixels
    # For a character that is not ASCII, the parser of NumPy 2.4 reads memory behind its table of
    # digits: the number may be wrong, or the process crashes. A question mark is not a digit.
    lines = [line.encode("ascii", "replace").decode() for line in lines]
    for dtype in (np.int32, np.float64):
        try:
            values = np.loadtxt(
                lines,
                delimiter=delimiter,
                dtype=dtype,
                ndmin=2,
                comments=None,
                quotechar='"',
                usecols=usecols,
            )
        # The type of the exception depends on the version of NumPy, so catch all types.
        except Exception:
            continue
        if values.shape != (len(chunk), width):
            return None
        values = values[:, chosen]
        # NaN fails the comparison too.
        if not (values.min() >= 0 and values.max() <= 255):
            return None
        converted = values.astype(np.uint8)
        return converted if dtype is np.int32 or (converted == values).all() else None
    return None


def _row(table: Table, columns: PixelColumns, number: int, line: str) -> list[int]:
    """Parse one line. An error message contains the line number, the column and the cause."""
    place = f"{table.path}, line {number}"
    cells = table.file.cells(line)
    if len(cells) != table.width:
        raise DataError(
            f"{place}: {len(cells)} columns, expected {table.width} as in the first line"
        )
    return [
        _pixel(cell, f"{place}, {where}") for where, cell in _pixel_cells(table, columns, cells)
    ]


def _pixel_cells(
    table: Table, columns: PixelColumns, cells: Sequence[str]
) -> Iterator[tuple[str, str]]:
    if columns.count == len(columns.pixels):
        for column in columns.pixels:
            name = f" ({table.called(column)})" if table.names is not None else ""
            yield f"column {column + 1}{name}", cells[column]
        return
    where = table.called(columns.pixels[0])
    values = cells[columns.pixels[0]].split()
    if len(values) != columns.count:
        raise DataError(
            f"{table.path}: {where} has {len(values)} pixels in a row and "
            f"{columns.count} in the first row: expected the same number in each row"
        )
    for pixel, value in enumerate(values, 1):
        yield f"{where}, pixel {pixel}", value


def _pixel(cell: str, where: str) -> int:
    shown = printable(cell[:40])
    if not cell:
        raise DataError(f"{where}: the cell is empty; {_RANGE}: fill it in, or remove the row")
    if not is_number(cell):
        raise DataError(f"{where}: {shown!r} is not a number; {_RANGE}")
    value = float(cell)
    if value.is_integer() and 0 <= value <= 255:
        return int(value)
    if value.is_integer():
        fix = (
            "divide 16-bit values by 257"
            if 255 < value <= 65535
            else "scale them so that black is 0 and white is 255"
        )
        raise DataError(f"{where}: the pixel {shown} is not in 0..255; {fix}")
    fix = ""
    if 0 < value < 1:
        fix = ": if the pixels are from 0 to 1, multiply them by 255 and round them"
    elif -1 <= value < 0:
        fix = ": if the pixels are from -1 to 1, add 1, multiply by 127.5 and round them"
    raise DataError(f"{where}: {shown!r} is not a whole number; {_RANGE}{fix}")
