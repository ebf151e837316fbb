"""Keep many small values, such as the rows of a table, in little memory."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")

# The number of values that are packed together.
_CHUNK = 512


class Packed(Sequence[T], Generic[T]):
    """Values, which are packed.

    A row of a classification takes 430 bytes, and 10 to 60 bytes when it is packed. So 100,000
    images can be predicted in the memory of a few. Values that `pickle` cannot write are kept as
    they are.

    Args:
        values: The values.
    """

    def __init__(self, values: Iterable[T] = ()) -> None:
        self._packed: list[bytes | list[T]] = []
        self._last: list[T] = []
        self.extend(values)

    def extend(self, values: Iterable[T]) -> None:
        """Append values.

        Args:
            values: The values.
        """
        for value in values:
            self._last.append(value)
            if len(self._last) == _CHUNK:
                self._packed.append(_pack(self._last))
                self._last = []

    def __len__(self) -> int:
        """Return the number of values."""
        return _CHUNK * len(self._packed) + len(self._last)

    def __iter__(self) -> Iterator[T]:
        """Unpack the values one after another."""
        for chunk in self._packed:
            yield from _unpack(chunk)
        yield from self._last

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return a value, or a list of values."""
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            return self._chunk(numbers // _CHUNK)[numbers % _CHUNK]
        found: list[T] = []
        number, chunk = -1, self._last
        for place in numbers:
            if place // _CHUNK != number:
                number = place // _CHUNK
                chunk = self._chunk(number)
            found.append(chunk[place % _CHUNK])
        return found

    def _chunk(self, number: int) -> list[T]:
        return _unpack(self._packed[number]) if number < len(self._packed) else self._last


def _pack(values: list[Any]) -> bytes | list[Any]:
    try:
        return zlib.compress(pickle.dumps(values, pickle.HIGHEST_PROTOCOL), 1)
    except Exception:
        # The row of a plugin's task, which may be anything.
        return values


def _unpack(chunk: bytes | list[Any]) -> list[Any]:
    return pickle.loads(zlib.decompress(chunk)) if isinstance(chunk, bytes) else chunk
