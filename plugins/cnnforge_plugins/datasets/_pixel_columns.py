"""Find the label, the id and the pixels among the columns of a table with one image per row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets._columns import (
    ID_NAMES,
    LABEL_NAMES,
    SPLIT_NAMES,
    Table,
    is_pixel_name,
    one_label_column,
    packed,
    split_column,
)
from cnnforge_plugins.datasets._delimited import is_number

# A column with more different values than this may be one of pixels.
_MANY_CLASSES = 64
_FEW_ROWS = 8


@dataclass(frozen=True)
class PixelColumns:
    """The columns of a table with one image per row.

    Attributes:
        pixels: Columns of the pixels; one column if its cells hold all pixels of an image.
        count: Number of pixels of an image.
        label: Column of the labels, or `None`.
        id: Column of the ids, or `None`.
        unused: Columns that are not used.
        split: Column that says which images are for validation and for testing, or `None`.
    """

    pixels: tuple[int, ...]
    count: int
    label: int | None = None
    id: int | None = None
    unused: tuple[int, ...] = ()
    split: int | None = None

    def others(self, width: int) -> list[int]:
        """Return the columns, of `width` columns, that are not pixels."""
        pixels = set(self.pixels)
        return [column for column in range(width) if column not in pixels]

    def chosen(self) -> slice | tuple[int, ...]:
        """Return the index of the pixels in an array with all columns, a slice if possible."""
        first, last = self.pixels[0], self.pixels[-1]
        return slice(first, last + 1) if last - first + 1 == len(self.pixels) else self.pixels


def find_pixel_columns(table: Table, options: DataOptions) -> tuple[PixelColumns, tuple[str, ...]]:
    """Find the columns of a table with one image per row.

    The names in the first line decide. If the first line does not have names, or if the names do
    not tell the label from the pixels, then the number of columns and the values in the first and
    the last column decide.

    Args:
        table: The table.
        options: Options of the dataset.

    Returns:
        The columns, and notes for the user.

    Raises:
        UsageError: If the pixels are not those of an image of a known size.
        DataError: If there are no pixels, or labels are needed and the table has none.
    """
    path = table.path
    if not table.rows:
        raise DataError(f"{path} has a header and no rows: expected one row for each image")
    if table.width < 2 and not packed(table.rows[0][0]):
        raise DataError(
            f"{path}, line {table.file.head[0][0]}: one column; expected a label and pixels, "
            "separated by commas"
        )
    columns = _by_names(table, options)
    if len(columns.pixels) == 1 and packed(table.cells(columns.pixels[0])[0]):
        columns = replace(columns, count=len(table.cells(columns.pixels[0])[0].split()))
    elif columns.label is None:
        columns = _by_position(table, columns, options)
    elif columns.id is None:
        columns = _outer_id(table, columns, options)
    if not columns.count:
        raise DataError(
            f"{path} has no columns of pixels: its columns are "
            f"{table.called(*range(table.width))}; expected a label and the pixels of an image in "
            "each row"
        )
    if columns.label is None and options.need_labels:
        raise _no_label(table, columns)
    _check_shape(table, columns, options)
    return columns, _notes(table, columns)


def shape_of(count: int, image_size: tuple[int, int] | None) -> tuple[int, int, int] | None:
    """Return the shape (H, W, C) of an image that has `count` values; `None` if it is unknown.

    Args:
        count: Number of values.
        image_size: Height and width that the user gave; without it, images are square.
    """
    if count < 1:
        return None
    for channels in (1, 3):
        if image_size and channels * math.prod(image_size) == count:
            return (*image_size, channels)
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if channels * side * side == count:
            return side, side, channels
    return None


def _by_names(table: Table, options: DataOptions) -> PixelColumns:
    index = table.index_column()
    labels, ids = table.named(LABEL_NAMES), table.named(ID_NAMES)
    others = {*labels, *ids, *table.named(SPLIT_NAMES)} | ({index} if index is not None else set())
    rest = [column for column in range(table.width) if column not in others]
    pixels = [c for c in rest if packed(table.cells(c)[0])][:1]
    if not pixels and table.names is not None:
        pixels = [c for c in rest if is_pixel_name(table.names[c]) and table.numeric(c)]
    if 2 * len(pixels) < len(rest) and not (pixels and packed(table.cells(pixels[0])[0])):
        pixels = [c for c in rest if table.numeric(c)]
    label = one_label_column(table, labels, table.column, required=options.need_labels)
    unknown = [column for column in rest if column not in pixels]
    if not labels and len(unknown) == 1:
        # All columns but one are named like pixels, or have numbers.
        cells = table.column(unknown[0])
        kind = _kind(cells)
        # In a few rows, each label may be another one.
        if kind == "label" or (options.need_labels and (kind == "" or len(cells) <= _FEW_ROWS)):
            label = unknown.pop()
        elif kind == "id" and not ids:
            ids = [unknown.pop()]
    split = split_column(table, table.column)
    unused = {*labels, *ids[1:], *unknown, *table.named(SPLIT_NAMES)} - {label, split}
    return PixelColumns(
        tuple(pixels), len(pixels), label, ids[0] if ids else None, tuple(sorted(unused)), split
    )


def _by_position(table: Table, columns: PixelColumns, options: DataOptions) -> PixelColumns:
    """Find the label among columns of numbers whose names do not tell it, or that have no names."""
    pixels = columns.pixels
    if len(pixels) < 2 or _named_as_pixels(table, pixels):
        return columns
    extra = _extra_columns(len(pixels), options, may_have_id=columns.id is None)
    if not extra:
        return columns
    outer = {column: table.column(column) for column in (*pixels[:extra], *pixels[-extra:])}
    kinds = {column: _kind(cells) for column, cells in outer.items()}
    first, last = pixels[0], pixels[-1]
    if extra == 2:
        if kinds[first] != "id":
            return columns
        pixels = pixels[1:]
        columns = replace(columns, pixels=pixels, count=len(pixels), id=first)
        first = pixels[0]
    elif not options.need_labels and kinds[first] == "id" and kinds[last] != "label":
        return replace(columns, pixels=pixels[1:], count=len(pixels) - 1, id=first)
    label = first
    if kinds[last] == "label":
        many, few = len(set(outer[first])), len(set(outer[last]))
        is_label = kinds[first] == "label" or _counts_up(outer[first])
        if not is_label or (many > _MANY_CLASSES and many > 4 * few):
            label = last
    pixels = tuple(column for column in pixels if column != label)
    return replace(columns, pixels=pixels, count=len(pixels), label=label)


def _outer_id(table: Table, columns: PixelColumns, options: DataOptions) -> PixelColumns:
    """Find an id in the first or last column that is not a label, if that makes an image."""
    pixels, size = columns.pixels, options.image_size
    if shape_of(len(pixels), size) is not None or shape_of(len(pixels) - 1, size) is None:
        return columns
    for column in (pixels[0], pixels[-1]):
        if _kind(table.column(column)) == "id":
            rest = tuple(pixel for pixel in pixels if pixel != column)
            return replace(columns, pixels=rest, count=len(rest), id=column)
    return columns


def _named_as_pixels(table: Table, columns: Sequence[int]) -> bool:
    if table.names is None:
        return False
    names = [table.names[column] for column in columns]
    # pandas numbers the columns of an array without names, also that of the labels.
    numbered = all(name.isdigit() for name in names)
    return not numbered and all(map(is_pixel_name, names))


def _extra_columns(count: int, options: DataOptions, *, may_have_id: bool) -> int:
    """Return how many of the columns are not pixels."""
    if options.image_size is not None:
        for extra in range(2 + may_have_id):
            if count - extra in [channels * math.prod(options.image_size) for channels in (1, 3)]:
                return extra
    # If the numbers of columns allow both, rows have labels if they need them.
    order = (1, 0) if options.need_labels else (0, 1)
    for extra in (*order, *([2] if may_have_id else [])):
        if shape_of(count - extra, None) is not None:
            return extra
    return 1 if options.need_labels else 0


def _kind(cells: Sequence[str]) -> str:
    """Return `"label"`, `"id"`, or `""` if the values of a column are neither."""
    distinct = len(set(cells))
    if distinct == len(cells) and (distinct > 2 or not all(map(is_number, cells))):
        return "id"
    return "label" if 1 < distinct <= max(2, len(cells) // 2) else ""


def _counts_up(cells: Sequence[str]) -> bool:
    """Return whether the values of a column are 0, 1, 2, ... or 1, 2, 3, ... without a gap.

    In a few rows, each may have another label. The values of a pixel have gaps then.
    """
    found = {cell.removesuffix(".0") for cell in cells}
    return len(found) > 1 and any(
        found == {str(start + n) for n in range(len(found))} for start in (0, 1)
    )


def _no_label(table: Table, columns: PixelColumns) -> DataError:
    seen = f"{columns.count} columns of pixels, {table.called(*columns.pixels)}"
    if columns.id is not None:
        seen = f"the id {table.called(columns.id)} and {seen}"
    fix = (
        "give the column of the labels the name label in the first line"
        if columns.unused
        else "add a column with the name label"
    )
    if columns.unused:
        seen += f", and {table.called(*columns.unused)}"
    return DataError(
        f"{table.path} has no column of labels, only {seen}: {fix}; "
        "'cnnforge predict' needs no labels"
    )


def _check_shape(table: Table, columns: PixelColumns, options: DataOptions) -> None:
    count, size = columns.count, options.image_size
    if shape_of(count, size) is not None:
        return
    label = "" if columns.label is None else f"the label {table.called(columns.label)} and "
    received = "" if size is None else f", and not an image of {size[0]} x {size[1]} either"
    fix = (
        "give the size, for instance --image-size HEIGHTxWIDTH, or give each column that is not a "
        "pixel a name such as id"
        if options.for_training
        else "give each column that is not a pixel a name such as label or id in the first line"
    )
    raise UsageError(
        f"{table.path} has {label}{count} pixels in a row, which is not a square image of one or "
        f"three channels{received}: {fix}"
    )


def _notes(table: Table, columns: PixelColumns) -> tuple[str, ...]:
    notes = []
    plain = columns.label is None or columns.label in table.named(LABEL_NAMES)
    if not plain and columns.label != 0:
        notes.append(f"labels are read from {table.called(columns.label or 0)}")
    elif not plain and table.names is not None:
        notes.append(f"labels are read from {table.called(0)}, the first column")
    if columns.id is not None:
        notes.append(f"{table.called(columns.id)} is read as the id of each image, not as a pixel")
    if columns.unused:
        notes.append(f"not used: {table.called(*columns.unused)}")
    file = f"{table.path}: " if notes else ""
    return (file + "; ".join(notes),) if notes else ()
