"""All samples of a dataset in one sequence, those for training and those for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnforge.data import Dataset, Samples


def joined(dataset: Dataset) -> Samples:
    """Return all samples of a dataset: first the training samples, then the validation samples."""
    if not len(dataset.validation):
        return dataset.train
    return _Joined(dataset.train, dataset.validation)


class _Joined:
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

    def fetch(self, indices: np.ndarray) -> np.ndarray:
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
