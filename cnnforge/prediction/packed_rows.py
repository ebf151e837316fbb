"""Keep the rows of a prediction table in little memory."""

from __future__ import annotations

import pickle
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from cnnforge.errors import RunError
from cnnforge.tasks import Row

# The number of rows that are packed together.
_CHUNK = 512
# Packed rows of more bytes are kept in a temporary file.
_IN_MEMORY = 2**22


class PackedRows(Sequence[Row]):
    """Rows of a prediction table, which are packed.

    A row of a classification takes 430 bytes, and 10 to 60 bytes when it is packed. So 100,000
    images can be predicted in the memory of a few. The packed rows of millions of images are in a
    temporary file. Rows that `pickle` cannot write are kept as they are.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._end = 0
        # A chunk is its place in the file, or its rows.
        self._packed: list[tuple[int, int] | list[Row]] = []
        self._last: list[Row] = []

    def extend(self, rows: Iterable[Row]) -> None:
        """Append rows.

        Args:
            rows: The rows.

        Raises:
            RunError: The disk is full.
        """
        for row in rows:
            self._last.append(row)
            if len(self._last) == _CHUNK:
                self._packed.append(self._kept(_pack(self._last)))
                self._last = []

    def __len__(self) -> int:
        """Return the number of rows."""
        return _CHUNK * len(self._packed) + len(self._last)

    def __iter__(self) -> Iterator[Row]:
        """Unpack the rows one after another."""
        for number in range(len(self._packed)):
            yield from self._chunk(number)
        yield from self._last

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return a row, or a list of rows."""
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            return self._chunk(numbers // _CHUNK)[numbers % _CHUNK]
        found: list[Row] = []
        number, chunk = -1, self._last
        for place in numbers:
            if place // _CHUNK != number:
                number = place // _CHUNK
                chunk = self._chunk(number)
            found.append(chunk[place % _CHUNK])
        return found

    def _kept(self, chunk: bytes | list[Row]) -> tuple[int, int] | list[Row]:
        if not isinstance(chunk, bytes):
            return chunk
        place = self._end, len(chunk)
        try:
            self._file.seek(self._end)
            self._file.write(chunk)
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"the rows do not fit into the folder for temporary files, {tempfile.gettempdir()} "
                f"({error.strerror}): free some space, or set TMPDIR to another folder"
            ) from error
        self._end += len(chunk)
        return place

    def _chunk(self, number: int) -> list[Row]:
        if number == len(self._packed):
            return self._last
        chunk = self._packed[number]
        if isinstance(chunk, list):
            return chunk
        offset, size = chunk
        self._file.seek(offset)
        return pickle.loads(zlib.decompress(self._file.read(size)))


def _pack(rows: list[Row]) -> bytes | list[Row]:
    try:
        return zlib.compress(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL), 1)
    except Exception:
        # The row of a plugin's task, which may be anything.
        return rows
