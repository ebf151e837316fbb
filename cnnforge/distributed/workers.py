"""Let the processes that train one model together agree, divide batches and exchange values.

Each worker is a process. All of them run the same training loop and take each step together, with
a part of the batch each. This module knows no framework: a function that sums arrays over the
workers is all it needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnforge.utils.parts import part, part_to_read


def _unchanged(array: np.ndarray) -> np.ndarray:
    return array


@dataclass(frozen=True)
class Workers:
    """The workers of a training. By default there is one, and its methods return at once.

    All workers call the same methods in the same order. A method returns when all have called it.

    Args:
        rank: Index of this worker, from 0. The first one writes the run and tells of progress.
        size: Number of workers.
        reduce: Function that sums an array over the workers: int32, int64, float32 or float64, of
            one dimension and of the same size on each worker. All get the same bits.
        replicas: The devices of all workers, of the type `cnnforge.backends.Replicas`; `None` if
            there is one device.
        addresses: Address of each worker, for messages.
    """

    rank: int = 0
    size: int = 1
    reduce: Callable[[np.ndarray], np.ndarray] = _unchanged
    replicas: Any = None
    addresses: Sequence[str] = ()

    @property
    def are_several(self) -> bool:
        """Whether there is more than one worker."""
        return self.size > 1

    @property
    def devices(self) -> int:
        """Number of devices of all workers."""
        return 1 if self.replicas is None else self.replicas.count

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the run and tells of progress."""
        return self.rank == 0

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is true on any worker.

        Args:
            *flags: The flags, as many as on each worker.
        """
        if not self.are_several:
            return flags
        return tuple(bool(total) for total in self.reduce(np.array(flags, np.int32)))

    def highest(self, value: int) -> int:
        """Return the highest value of all workers; values are 0 or more."""
        return max(map(int, self._each(value)))

    def same(self, value: int) -> bool:
        """Return whether all workers have the same value, which is 0 or more."""
        return len(set(map(int, self._each(value)))) == 1

    def wait(self) -> None:
        """Wait until all workers have called this method."""
        self.agree(True)

    def own(self, indices: np.ndarray) -> np.ndarray:
        """Return the part of some indices that this worker reads; see `part_to_read`.

        Args:
            indices: (N,) indices, N at least 1.
        """
        start, stop = part_to_read(len(indices), self.rank, self.size)
        return indices[start:stop]

    def own_of_batches(self, indices: np.ndarray, batch_size: int) -> np.ndarray:
        """Return the part that this worker reads of each batch, joined.

        Args:
            indices: (N,) indices of several batches, N at least 1.
            batch_size: Number of images in a batch; the last batch may have fewer.
        """
        if not self.are_several:
            return indices
        batches = (indices[at : at + batch_size] for at in range(0, len(indices), batch_size))
        return np.concatenate([self.own(each) for each in batches])

    def gather(self, array: np.ndarray, count: int) -> np.ndarray:
        """Join the rows that the workers have computed for their parts of `count` images.

        Args:
            array: (n, ...) the rows for what `own` returned for `count` indices.
            count: Number of images of all workers.

        Returns:
            (count, ...) the rows of all workers, in the order of the images.
        """
        if not self.are_several:
            return array
        start, stop = part(count, self.rank, self.size)
        joined = np.zeros((count, *array.shape[1:]), array.dtype)
        joined[start:stop] = array[: stop - start]
        return self._sum_of_bytes(joined)

    def from_first(self, value: Any) -> Any:
        """Return the value that the first worker has given.

        Args:
            value: A value that JSON can hold; `None` on the other workers.
        """
        if not self.are_several:
            return value
        text = json.dumps(value).encode() if self.is_first else b""
        size = self.highest(len(text))
        data = np.frombuffer(text.ljust(size, b" "), np.uint8) if self.is_first else None
        zeros = np.zeros(size, np.uint8)
        return json.loads(self._sum_of_bytes(zeros if data is None else data).tobytes())

    def arrays_from_first(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the arrays of the first worker.

        Args:
            arrays: Arrays of the same shapes and dtypes on all workers.
        """
        if not self.are_several:
            return list(arrays)
        return [
            self._sum_of_bytes(np.asarray(each) if self.is_first else np.zeros_like(each))
            for each in arrays
        ]

    def _each(self, value: int) -> np.ndarray:
        """Return the values of all workers: (size,) int64."""
        values = np.zeros(self.size, np.int64)
        values[self.rank] = value
        return self.reduce(values)

    def _sum_of_bytes(self, array: np.ndarray) -> np.ndarray:
        """Sum an array of which each byte is zero on all workers but one, so no bit is lost."""
        data = np.ascontiguousarray(array).tobytes()
        words = np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), np.int32)
        if not len(words):
            return array
        summed = self.reduce(words).tobytes()[: len(data)]
        return np.frombuffer(summed, array.dtype).reshape(array.shape).copy()


ALONE = Workers()
"""The one worker of a training on one device."""
