"""Compute the features of images with the frozen part of a model, and keep them.

While the backbone is frozen and the images do not change, an image has the same features in each
epoch. They are computed once, and an epoch then only trains the head on them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.backends import BatchPredictor
from cnnforge.data import Samples
from cnnforge.data.prefetch import Chunk, StepsPerCall, chunks, images_only
from cnnforge.errors import RunError

MAX_IN_MEMORY = 256 * 2**20
"""Max size of the features of a split that are kept in memory, in bytes."""


class FeatureSamples:
    """Samples whose images are replaced by their features. The targets are those of the samples.

    Args:
        samples: The samples.
        features: (N, ...) float32.

    Attributes:
        names: Names of the samples.
    """

    def __init__(self, samples: Samples, features: np.ndarray) -> None:
        self._samples, self.features = samples, features
        self.names: Sequence[str] = samples.names

    def __len__(self) -> int:
        return len(self._samples)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._samples, name)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Return the features at `indices`: (len(indices), ...) float32."""
        return np.asarray(self.features[indices])


class Backbone:
    """Computes features of images, several batches in one call.

    Args:
        model: The backbone, from (N, H, W, C) images to one tensor (N, ...) of features.
        batch_size: Number of images in a batch.
        folder: Folder for a temporary file with many features; `None`: they stay in memory.
    """

    def __init__(self, model: keras.Model, batch_size: int, folder: Path | None) -> None:
        self._model, self._batch_size, self._folder = model, batch_size, folder
        self._predictor = BatchPredictor(model, batch_size)

    def replaced(self, found: Iterator[Chunk]) -> Iterator[Chunk]:
        """Replace the images of chunks by their features."""
        for chunk in found:
            yield chunk._replace(images=self._predictor.predict(chunk.images))

    def keep(self, samples: Samples, after_chunk: Callable[[], None]) -> FeatureSamples:
        """Compute the features of all samples.

        Args:
            samples: The samples.
            after_chunk: Function that is called after every few batches. It may raise an exception
                to stop.

        Returns:
            The samples with their features.

        Raises:
            RunError: There is no room for the features on the disk.
        """
        count = len(samples)
        kept = self._room((count, *self._model.output_shape[1:]))
        height, width, channels = self._model.input_shape[1:]
        size = StepsPerCall((height, width, channels), self._batch_size)
        for chunk in chunks(images_only(samples), np.arange(count), self._batch_size, size):
            first = chunk.first * self._batch_size
            kept[first : first + len(chunk.images)] = self._predictor.predict(chunk.images)
            after_chunk()
        return FeatureSamples(samples, kept)

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        needed = int(np.prod(shape)) * 4
        if needed <= MAX_IN_MEMORY or self._folder is None:
            return np.empty(shape, np.float32)
        try:
            # The file has no name, so it is gone with the process, even if this is killed.
            with tempfile.TemporaryFile(dir=self._folder) as file:
                # Writing to a mapped file on a full disk would end the process.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, needed)
                return np.memmap(file, np.float32, "w+", shape=shape)
        except OSError as error:
            raise RunError(
                f"{needed / 1e6:,.0f} MB of features cannot be kept in {self._folder}: "
                f"{error.strerror or error}; make room, or give another folder with --output"
            ) from error
