"""Read text with delimited columns, as spreadsheets, pandas, R and NumPy write it."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from cnnforge.data import printable
from cnnforge.errors import DataError, UsageError

_DELIMITERS = ("\t", ";", "|", ",")
_HEAD = 16
# A cell may hold all pixels of an image. Python's limit of 131,072 characters is for smaller cells.
csv.field_size_limit(2**31 - 1)
_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class DelimitedFile:
    """A text file with delimited columns.

    Attributes:
        path: The file.
        encoding: Encoding of the text.
        delimiter: Character between two columns; `None`: blanks.
        trailing: Whether each line also ends with the delimiter.
        head: Line numbers and cells of the first lines that are not empty, at least one.
    """

    path: str
    encoding: str
    delimiter: str | None
    trailing: bool = False
    head: tuple[tuple[int, list[str]], ...] = ()

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the text of each line that is not empty.

        Raises:
            DataError: If the file cannot be read, or is not text.
        """
        blank = " \t\r\n" + (self.delimiter or "")
        with _opened(self.path, self.encoding) as file:
            for number, line in enumerate(file, 1):
                # A spreadsheet writes empty rows as lines of delimiters.
                if line[0] in blank and not line.strip(blank):
                    continue
                if number == 1 and _separator_line(line):
                    continue
                if self.trailing and self.delimiter:
                    line = line.rstrip(" \r\n").removesuffix(self.delimiter)
                yield number, line

    def cells(self, line: str) -> list[str]:
        """Split a line into its cells, without quotes and surrounding blanks."""
        if self.delimiter is None:
            return line.split()
        if '"' not in line:
            return [cell.strip() for cell in line.split(self.delimiter)]
        (row,) = csv.reader([line], delimiter=self.delimiter, skipinitialspace=True)
        return [cell.strip() for cell in row]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the cells of each row. A quoted cell may have line breaks.

        Raises:
            DataError: If the file cannot be read, or is not text.
        """
        if self.delimiter is None:
            yield from ((number, line.split()) for number, line in self.lines())
            return
        with _opened(self.path, self.encoding) as file:
            reader = csv.reader(file, delimiter=self.delimiter, skipinitialspace=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells) or (reader.line_num == 1 and _separator_line(",".join(row))):
                    continue
                if self.trailing and not cells[-1]:
                    cells.pop()
                yield reader.line_num, cells

    def picker(self, wanted: Sequence[int], columns: int) -> Callable[[str], list[str]]:
        """Return a function that reads a few cells of a line.

        It is faster than `cells` if the wanted columns are at the start or end of a long line.

        Args:
            wanted: Indices of the columns.
            columns: Number of columns.
        """
        first = [index for index in wanted if index < columns // 2]
        left, right = (
            max(first, default=-1) + 1,
            columns - min(set(wanted) - {*first}, default=columns),
        )
        delimiter = self.delimiter
        if delimiter is None or left + right > 16:
            return lambda line: [self.cells(line)[index] for index in wanted]

        def pick(line: str) -> list[str]:
            if '"' in line:
                cells = self.cells(line)
                return [cells[index] for index in wanted]
            start = line.split(delimiter, left) if left else []
            end = line.rsplit(delimiter, right) if right else []
            return [
                (start[index] if index < left else end[index - columns]).strip() for index in wanted
            ]

        return pick


def open_delimited(path: str) -> DelimitedFile:
    """Find out how a text file is encoded and delimited.

    The first line decides on the delimiter, which is a comma, semicolon, tab, vertical bar, or
    blanks between numbers.

    Args:
        path: The file; it may be compressed with gzip.

    Returns:
        The file.

    Raises:
        UsageError: If there is no such file.
        DataError: If the file is empty or is not text.
    """
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UsageError(f"the csv file {printable(path)} {what}: give an existing file")
    encoding = _encoding(path)
    first = next(DelimitedFile(path, encoding, ",").lines(), None)
    if first is None:
        raise DataError(f"{printable(path)} is empty: expected one row for each image")
    file = DelimitedFile(path, encoding, _delimiter(path, encoding, first[1]))
    try:
        head = tuple(islice(file.rows(), _HEAD))
    except csv.Error as error:
        raise DataError(f"{printable(path)} cannot be read as a table: {error}") from error
    if not head:
        raise DataError(f"{printable(path)} has only empty cells: expected one row for each image")
    (_, top), *others = head
    after = [row for _, row in others] or [top]
    trailing = (
        len(top) > 1
        and all(not row[-1] for row in after)
        and (not top[-1] or len(after[0]) == len(top) + 1)
    )
    if trailing:
        head = tuple((number, row if row[-1] else row[:-1]) for number, row in head)
    return DelimitedFile(path, encoding, file.delimiter, trailing, head)


def is_number(text: str) -> bool:
    """Return whether a text is a number. Underscores, which Python accepts, are not accepted."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _encoding(path: str) -> str:
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    if start.startswith(b"PK"):
        kind = "an Excel file" if path.lower().endswith((".xlsx", ".ods")) else "a zip archive"
        fix = "save it as CSV" if kind == "an Excel file" else "unpack it with 'unzip', then name"
        fix += "" if kind == "an Excel file" else " the file that was in it"
        raise DataError(f"{printable(path)} is {kind}, not text: {fix}")
    # Excel writes a byte-order mark at the start of a file. The encoding "utf-8-sig" removes it.
    return _ENCODINGS.get(start[:2], "utf-8-sig")


@contextmanager
def _opened(path: str, encoding: str) -> Iterator[Iterator[str]]:
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with (gzip.open if packed else open)(path, "rt", encoding=encoding) as text:
            yield text  # pyright: ignore[reportReturnType]
    except UnicodeError as error:
        byte = getattr(error, "object", b"")[getattr(error, "start", 0) :][:1]
        fix = "expected a csv file"
        if byte and byte[0] > 0x9F and b"\0" not in getattr(error, "object", b""):
            fix = (
                "save it as 'CSV UTF-8', or convert it with: iconv -f WINDOWS-1252 -t UTF-8 "
                f"{printable(path)} > new.csv"
            )
        raise DataError(f"{printable(path)} is not text in UTF-8 (byte {byte!r}): {fix}") from error
    except csv.Error as error:
        raise DataError(f"{printable(path)} cannot be read as a table: {error}") from error
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{printable(path)} cannot be read: {reason}") from error


def _separator_line(line: str) -> bool:
    """Return whether a line only names the delimiter, as Excel writes it: `sep=;`."""
    return line.strip().strip('"').lower().startswith("sep=") and len(line.strip()) <= 7


def _delimiter(path: str, encoding: str, line: str) -> str | None:
    with _opened(path, encoding) as file:
        top = next(iter(file)).strip().strip('"')
    if _separator_line(top) and top[4:]:
        return top[4]
    outside = "".join(line.split('"')[::2])
    best = max(_DELIMITERS, key=outside.count)
    if outside.count(best):
        return best
    words = line.split()
    return None if len(words) > 1 and all(map(is_number, words)) else ","
