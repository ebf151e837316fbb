"""Read the samples of an epoch ahead of training, in a background thread.

The thread reads chunks of several batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cnnforge.data import Samples

_AHEAD = 2
MAX_BYTES = 32 * 2**20
"""Max size of the images that are read at once, in bytes."""
_SHORT, _LONG = 0.1, 0.4


class Chunk(NamedTuple):
    """Several consecutive batches of an epoch, which are read and trained on in one call.

    Attributes:
        first: Index of the first of these batches in the epoch, from 0.
        batches: Number of batches; the last batch may be smaller.
        images: (N, H, W, C) uint8.
        targets: Arrays (N, ...) by name; empty for a prediction.
        total: Number of images of these batches, also of those that other workers read.
    """

    first: int
    batches: int
    images: np.ndarray
    targets: Mapping[str, np.ndarray]
    total: int


class StepsPerCall:
    """Chooses the number of batches in a chunk from the measured times of earlier chunks.

    A chunk should take 0.1 to 0.4 seconds and have at most 32 MiB of images. If chunks took less
    time, the Python code between them would slow down training. If they took more time, progress
    messages and the reaction to Ctrl-C would be late. The results of training do not depend on this
    number.

    Args:
        image_shape: (H, W, C) of the images, one byte per value.
        batch_size: Number of images per batch.
        fixed: Whether the number does not depend on times. Several workers need the same number.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], batch_size: int, *, fixed: bool = False
    ) -> None:
        self._max_batches = max(1, MAX_BYTES // (batch_size * int(np.prod(image_shape))))
        self._seen, self._fixed = False, fixed
        self.batches = min(8, self._max_batches)

    def record(self, batches: int, seconds: float) -> None:
        """Adapt the number of batches to the time of a chunk.

        Args:
            batches: Number of batches in the chunk.
            seconds: Time of the chunk, in seconds.
        """
        if self._fixed:
            return
        if not self._seen:
            # Ignore the time of the first chunk, which builds the graph and compiles kernels.
            self._seen = True
        elif seconds > _LONG:
            self.batches = max(1, min(self.batches, batches // 2))
        elif seconds < _SHORT and batches >= self.batches:
            self.batches = min(2 * self.batches, self._max_batches)


Read = Callable[[np.ndarray], tuple[np.ndarray, Mapping[str, np.ndarray]]]
"""A function from indices of samples to their images and targets."""


def images_only(samples: Samples) -> Read:
    """Return a function that reads images without targets, for a prediction."""
    return lambda indices: (samples.fetch(indices), {})


def _all(indices: np.ndarray) -> np.ndarray:
    return indices


def chunks(
    read: Read,
    visit: np.ndarray,
    batch_size: int,
    size: StepsPerCall,
    first: int = 0,
    own: Callable[[np.ndarray], np.ndarray] = _all,
) -> Iterator[Chunk]:
    """Read the samples in the order of `visit`. At most two chunks are read ahead of the caller.

    Args:
        read: Function that reads images and targets. It is called in a background thread.
        visit: (N,) indices of the samples.
        batch_size: Number of images per batch.
        size: Number of batches per chunk. It may change between chunks.
        first: Index of the batch to start from.
        own: Function that returns the part of the indices of a chunk that this process reads.

    Yields:
        The chunks. Only the last batch of the last chunk may be smaller.
    """
    total = -(-len(visit) // batch_size)

    def read_chunk(first: int, batches: int) -> Chunk:
        taken = visit[first * batch_size : (first + batches) * batch_size]
        return Chunk(first, batches, *read(own(taken)), len(taken))

    pending: deque[Future[Chunk]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="cnnforge-read")
    try:
        while first < total or pending:
            while first < total and len(pending) < _AHEAD:
                batches = min(size.batches, total - first)
                pending.append(reader.submit(read_chunk, first, batches))
                first += batches
            yield pending.popleft().result()
    finally:
        # If the caller stops early, cancel the reads that have not started.
        reader.shutdown(cancel_futures=True)
