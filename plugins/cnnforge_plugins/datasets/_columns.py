"""Find out what the columns of a table are, from the names in its first line and its content."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from cnnforge.data import IMAGE_SUFFIXES, normal_name, printable, split_role
from cnnforge.errors import DataError
from cnnforge_plugins.datasets._delimited import DelimitedFile, is_number

# Names of columns, in lower case and without blanks, hyphens and underscores.
LABEL_NAMES = frozenset(
    (
        "label",
        "labels",
        "class",
        "classes",
        "target",
        "targets",
        "y",
        "category",
        "categories",
        "classname",
        "classlabel",
        "classid",
        "labelname",
        "labelid",
        "categoryname",
        "categoryid",
        "groundtruth",
        "truth",
        "truelabel",
        "trueclass",
        "digit",
        "letter",
        "species",
        "breed",
        "diagnosis",
        "emotion",
    )
)
ID_NAMES = frozenset(
    (
        "id",
        "ids",
        "imageid",
        "imgid",
        "pictureid",
        "photoid",
        "sampleid",
        "fileid",
        "rowid",
        "index",
        "idx",
        "row",
        "rownumber",
        "number",
        "no",
        "uid",
        "uuid",
        "guid",
        "key",
    )
)
FILE_NAMES = frozenset(
    (
        "file",
        "files",
        "filename",
        "filenames",
        "filepath",
        "path",
        "paths",
        "relativepath",
        "imagepath",
        "imgpath",
        "image",
        "images",
        "img",
        "imagename",
        "imgname",
        "imagefile",
        "imagefilename",
        "picture",
        "pictures",
        "picturename",
        "photo",
        "photos",
        "fname",
        "name",
        "names",
    )
)
SPLIT_NAMES = frozenset(["split", "subset", "set", "partition", "usage", "phase", "fold"])
_PIXEL_NAME = re.compile(
    r"(?:pixels?|pix|px|p|x|f|v|c|col|column|feature|feat|val|value|var|r|g|b|red|green|blue|gray)?"
    r"[\s_.\-\[(]*\d+(?:[\s_.,x\-]+\d+)*[\s_.)\]]*(?:r|g|b|red|green|blue)?"
)
_WHOLE = re.compile(r"([+-]?\d{1,40})(?:\.0*)?")
# So many columns are those of an image: consecutive numbers in the first line are then their names,
# and a column with the name of a file is not needed.
_MANY = 9
# Fewer columns of numbers than this are not taken for pixels if another column can name pictures.
_FEW = 4


@dataclass(frozen=True)
class Table:
    """A delimited file whose first line is understood.

    Attributes:
        file: The file.
        names: The names in the first line; `None` if the first line has data.
        rows: Cells of the first rows of data.
        width: Number of columns.
    """

    file: DelimitedFile
    names: tuple[str, ...] | None
    rows: tuple[list[str], ...]
    width: int

    @property
    def path(self) -> str:
        """The path of the file, for messages."""
        return printable(self.file.path)

    def keys(self) -> list[str]:
        """Return the names in the form of `LABEL_NAMES`; empty texts if there are no names."""
        return [key(name) for name in self.names] if self.names else [""] * self.width

    def called(self, *columns: int) -> str:
        """Return how messages call columns, for instance `'id'` or `column 3`."""
        texts = [
            repr(normal_name(self.names[column]))
            if self.names and self.names[column]
            else f"column {column + 1}"
            for column in columns
        ]
        if len(texts) > 6:
            texts = [*texts[:3], f"... ({len(texts) - 4} more)", texts[-1]]
        return ", ".join(texts)

    def cells(self, column: int) -> list[str]:
        """Return the cells of a column in the first rows."""
        return [row[column] if column < len(row) else "" for row in self.rows]

    def column(self, column: int) -> list[str]:
        """Read the cells of a column in all rows."""
        pick = self.file.picker([column], self.width)
        lines = self.file.lines()
        if self.names is not None:
            next(lines)
        cells = []
        for _, line in lines:
            try:
                cells += pick(line)
            except IndexError:
                # The line is too short. The caller reports it when it reads the rows.
                continue
        return cells

    def numeric(self, column: int) -> bool:
        """Return whether at least half of the first cells of a column are numbers or empty."""
        cells = self.cells(column)
        return 2 * sum(not cell or is_number(cell) for cell in cells) >= len(cells)

    def named(self, names: frozenset[str]) -> list[int]:
        """Return the columns that have one of these names."""
        return [column for column, own in enumerate(self.keys()) if own and own in names]

    def index_column(self) -> int | None:
        """Return the column of the row numbers that pandas and R write without a name."""
        nameless = self.names is not None and re.fullmatch(r"(unnamed:? ?0)?", self.keys()[0])
        return 0 if nameless and self.width > 1 else None


def understand(file: DelimitedFile, *, header: bool | None = None) -> Table:
    """Find out whether the first line of a file has the names of the columns.

    Args:
        file: The file.
        header: Whether it has; `None`: find out.
    """
    (_, top), *others = file.head
    if header is None:
        header = _is_header(top)
    if not header:
        return Table(file, None, tuple(row for _, row in file.head), len(top))
    # NumPy writes "# " in front of the names.
    names = tuple(name.lstrip("# ") if place == 0 else name for place, name in enumerate(top))
    return Table(file, names, tuple(row for _, row in others), len(top))


def has_names(table: Table) -> bool:
    """Return whether the rows of a table name pictures. Otherwise they have pixels."""
    if not table.rows:
        return bool(table.named(FILE_NAMES))
    columns = range(table.width)
    if any(packed(cell) for cell in table.rows[0]):
        return False
    words = [column for column in columns if not table.numeric(column)]
    pixels = set(columns) - {*words}
    if table.names is not None:
        pixels = {column for column in pixels if is_pixel_name(table.names[column])}
    if len(pixels) >= _MANY:
        return False
    if any(2 * sum(map(ends_as_image, table.cells(c))) > len(table.rows) for c in words):
        return True
    if table.names is None:
        return bool(words) and table.width < _FEW
    naming, others = table.named(FILE_NAMES), table.named(LABEL_NAMES | SPLIT_NAMES)
    if set(naming) & set(words):
        return True
    if pixels:
        return False
    numbers = set(columns) - {*words, *naming, *others, *table.named(ID_NAMES)}
    can_name = naming or table.named(ID_NAMES) or set(words) - {*others}
    return bool(can_name) and len(numbers) < _FEW


def one_label_column(
    table: Table, labels: Sequence[int], cells: Callable[[int], Sequence[str]], *, required: bool
) -> int | None:
    """Choose the column of the labels among the columns with names such as `label`.

    Two columns may give the same labels, in numbers and in words. Then the words are chosen.

    Args:
        table: The table.
        labels: The columns.
        cells: Function that returns all cells of a column.
        required: Whether labels are needed.

    Returns:
        The column; `None` if `labels` is empty, or has several columns and labels are not needed.

    Raises:
        DataError: If the columns give different labels and labels are needed.
    """
    if len(labels) < 2:
        return labels[0] if labels else None
    contents = [cells(column) for column in labels]
    # A damaged table has rows of different lengths, which are reported when the rows are read.
    pairs = {len(set(content)) for content in (*contents, list(zip_longest(*contents)))}
    if len(pairs) == 1:
        return min(labels, key=lambda column: (table.numeric(column), column))
    if not required:
        return None
    raise DataError(
        f"{table.path}: {table.called(*labels)} may each be the label of an image, and one "
        f"label is needed: give only one of these columns the name label"
    )


def class_labels(cells: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Make the classes of labels that are numbers or words.

    Args:
        cells: N labels. `"1"` and `"1.0"` are the same label.

    Returns:
        Two values. First, the names of the classes that occur, sorted by value if all are whole
        numbers, and by text otherwise. Second, (N,) int32: the index of the class of each label.
    """
    names = {cell: class_name(cell) for cell in set(cells)}
    found = set(names.values())
    whole = all(_WHOLE.fullmatch(name) for name in found)
    classes = sorted(found, key=int) if whole else sorted(found)
    index = {name: place for place, name in enumerate(classes)}
    return tuple(classes), np.array([index[names[cell]] for cell in cells], np.int32)


def class_name(cell: str) -> str:
    """Return the name of the class that a cell gives. `"1"` and `"1.0"` are the same class."""
    whole = _WHOLE.fullmatch(cell.strip())
    return str(int(whole[1])) if whole else normal_name(cell.strip())


def check_labels_repeat(table: Table, column: int, cells: Sequence[str]) -> None:
    """Refuse a column in which nearly every row has another value.

    Raises:
        DataError: If the cells of the column are not labels for training.
    """
    distinct = len(set(cells))
    if distinct <= 8 or distinct <= 0.6 * len(cells):
        return
    fractions = all(is_number(cell) for cell in cells) and any(
        not _WHOLE.fullmatch(cell) for cell in cells
    )
    reason = (
        "these are measured values, and a classification needs classes: write the class of each "
        "image into that column"
        if fractions
        else "this is an id and not a label: give the column of the labels the name label"
    )
    raise DataError(
        f"{table.path}: {table.called(column)} was taken for the labels, but it has "
        f"{distinct} different values in {len(cells)} rows; {reason}"
    )


def split_column(table: Table, cells: Callable[[int], Sequence[str]]) -> int | None:
    """Return the column that says which samples are for validation and for testing.

    Args:
        table: The table.
        cells: Function that returns all cells of a column.

    Returns:
        The first column with a name such as `split` in which each cell is the name of a split.
    """
    known = (c for c in table.named(SPLIT_NAMES) if all(map(split_role, cells(c))))
    return next(known, None)


def split_note(table: Table, column: int, splits: Sequence[str]) -> str:
    """Return a note on the column that says which samples are for validation and for testing.

    Args:
        table: The table.
        column: The column.
        splits: N roles, see `cnnforge.data.split_role`.
    """
    counts = Counter(splits)
    texts = [f"{counts['train']} images for training"]
    texts += [f"{counts['validation']} for validation"] if counts["validation"] else []
    texts += [f"{counts['test']} for a test at the end"] if counts["test"] else []
    return f"{table.called(column)} gives {', '.join(texts)}"


def key(name: str) -> str:
    """Return the name of a column in the form of `LABEL_NAMES`."""
    return re.sub(r"[\s_-]+", "", name.lower().lstrip("#"))


def is_pixel_name(name: str) -> bool:
    """Return whether a column is named like a pixel: `pixel0`, `p1`, `1x1`, `0`, ..."""
    return _PIXEL_NAME.fullmatch(name.strip().lower()) is not None


def ends_as_image(cell: str) -> bool:
    """Return whether a cell ends like the name of an image file."""
    return os.path.splitext(cell)[1].lower() in IMAGE_SUFFIXES


def packed(cell: str) -> bool:
    """Return whether a cell holds all pixels of an image, with blanks between them."""
    words = cell.split()
    return len(words) >= _FEW and all(map(is_number, words))


def _is_header(top: Sequence[str]) -> bool:
    words = [cell for cell in top if not is_number(cell)]
    if any(map(ends_as_image, top)) or any(map(packed, top)):
        return False
    known = any(
        key(cell) in LABEL_NAMES | ID_NAMES | FILE_NAMES | SPLIT_NAMES | {""} for cell in words
    )
    numbers = [float(cell) for cell in top if is_number(cell)]
    if len(numbers) < len(words) or not numbers:
        return bool(words)
    start = numbers[0]
    consecutive = start in (0, 1) and numbers == [start + n for n in range(len(numbers))]
    return consecutive and (len(numbers) >= _MANY or (known and bool(words)))
