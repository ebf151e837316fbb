"""Keep the rows of a prediction table in little memory."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from cnnforge.tasks import Row

# The number of rows that are packed together.
_CHUNK = 512


class PackedRows(Sequence[Row]):
    """Rows of a prediction table, which are packed.

    A row of a classification takes 430 bytes, and 10 to 60 bytes when it is packed. So 100,000
    images can be predicted in the memory of a few. Rows that `pickle` cannot write are kept as they
    are.
    """

    def __init__(self) -> None:
        self._packed: list[bytes | list[Row]] = []
        self._last: list[Row] = []

    def extend(self, rows: Iterable[Row]) -> None:
        """Append rows.

        Args:
            rows: The rows.
        """
        for row in rows:
            self._last.append(row)
            if len(self._last) == _CHUNK:
                self._packed.append(_pack(self._last))
                self._last = []

    def __len__(self) -> int:
        """Return the number of rows."""
        return _CHUNK * len(self._packed) + len(self._last)

    def __iter__(self) -> Iterator[Row]:
        """Unpack the rows one after another."""
        for chunk in self._packed:
            yield from _unpack(chunk)
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

    def _chunk(self, number: int) -> list[Row]:
        return _unpack(self._packed[number]) if number < len(self._packed) else self._last


def _pack(rows: list[Row]) -> bytes | list[Row]:
    try:
        return zlib.compress(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL), 1)
    except Exception:
        # The row of a plugin's task, which may be anything.
        return rows


def _unpack(chunk: bytes | list[Row]) -> list[Row]:
    return pickle.loads(zlib.decompress(chunk)) if isinstance(chunk, bytes) else chunk
