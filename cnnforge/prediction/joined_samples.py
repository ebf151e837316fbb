"""All samples of a dataset as one object, and their images in their own size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnforge.data import Dataset, Samples


def joined(dataset: Dataset) -> Samples:
    """Return all samples of a dataset: first the training samples, then the validation samples."""
    if not len(dataset.validation):
        return dataset.train
    return JoinedSamples(dataset.train, dataset.validation)


class JoinedSamples:
    """All samples of a dataset: first the training samples, then the validation samples."""

    def __init__(self, first: Samples, second: Samples) -> None:
        self._parts = (first, second)
        self.names: Sequence[str] = [*first.names, *second.names]

    def __len__(self) -> int:
        return len(self.names)

    def __getattr__(self, name: str) -> Any:
        # The names of the attributes with targets depend on the task. Concatenate the attributes of
        # both parts, if they are arrays or lists with one entry per sample.
        if name.startswith("_"):
            raise AttributeError(name)
        first, second = (getattr(part, name) for part in self._parts)
        sizes = [
            len(values) if isinstance(values, np.ndarray | list) else -1
            for values in (first, second)
        ]
        if sizes != [len(part) for part in self._parts]:
            raise AttributeError(name)
        joined = (
            np.concatenate([first, second]) if isinstance(first, np.ndarray) else first + second
        )
        self.__dict__[name] = joined
        return joined

    def original(self, index: int) -> np.ndarray:
        """Return an image in its own size, see `original_of`."""
        border = len(self._parts[0])
        if index < border:
            return original_of(self._parts[0], index)
        return original_of(self._parts[1], index - border)

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices`: (len(indices), H, W, C) uint8."""
        border = len(self._parts[0])
        in_second = indices >= border
        images = [
            part.fetch(chosen)
            for part, chosen in zip(
                self._parts, (indices[~in_second], indices[in_second] - border), strict=True
            )
            if len(chosen)
        ]
        if len(images) == 1:
            return images[0]
        joined = np.empty((len(indices), *images[0].shape[1:]), np.uint8)
        joined[~in_second], joined[in_second] = images
        return joined


def original_of(samples: Any, index: int) -> np.ndarray:
    """Return an image in its own size.

    Args:
        samples: The samples.
        index: Index of the sample.

    Returns:
        (H, W, 1) or (H, W, 3) uint8.

    Raises:
        DataError: A file cannot be read.
    """
    if hasattr(samples, "original"):
        return samples.original(index)
    return samples.fetch(np.array([index]))[0]
