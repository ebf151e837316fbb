"""Find the images to predict: image files, folders of images, and datasets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from cnnforge.data import (
    IMAGE_SUFFIXES,
    DataOptions,
    Dataset,
    Samples,
    SkippedFile,
    file_ids,
    find_images,
    open_dataset,
    printable,
)
from cnnforge.errors import DataError, UsageError
from cnnforge.plugin import DEFAULT_TASK, DatasetSpec, TaskSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.plugin_host.registry import Registry
from cnnforge.prediction.predictor import Predictor
from cnnforge.tasks import Evaluation, Row


@dataclass(frozen=True)
class FileInputs:
    """Image files to predict.

    Attributes:
        paths: The files, without duplicates.
        errors: Path of each file that cannot be read, with the reason.
    """

    paths: tuple[str, ...]
    errors: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.paths) + len(self.errors)

    @property
    def ids(self) -> tuple[str, list[str]] | None:
        """The name of the ids, and the id of each row that `predict` yields."""
        return "id", file_ids([*self.paths, *(path for path, _ in self.errors)])

    def predict(
        self, predictor: Predictor, top_k: int = 3, limit: int | None = None
    ) -> Iterator[Row]:
        """Predict the first `limit` files, or all if it is `None`. Yield a table row for each."""
        yield from predictor.predict_files(self.paths[:limit], top_k)
        left = None if limit is None else max(0, limit - len(self.paths))
        for path, reason in islice(self.errors, left):
            yield predictor.task.unread_row(printable(path), reason)


@dataclass(frozen=True)
class SampleInputs:
    """Samples of a dataset to predict or evaluate.

    Attributes:
        dataset: The dataset.
        samples: Samples of the dataset.
        indices: (N,) indices of the samples to predict, in order.
        what: Description for the user, for instance `"the validation part of mnist5k"`.
    """

    dataset: Dataset
    samples: Samples
    indices: np.ndarray
    what: str

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ids(self) -> tuple[str, list[str]] | None:
        """The name of the ids, and the id of each row that `predict` yields.

        `None` if the samples have no ids.
        """
        ids = getattr(self.samples, "ids", None)
        if ids is None or not self.dataset.id_name:
            return None
        own = [ids[int(index)] for index in self.indices]
        return self.dataset.id_name, own + list(self.dataset.skipped_ids[: len(self._unread)])

    @property
    def _unread(self) -> tuple[SkippedFile, ...]:
        # Only the part for training and the part for validation together have all files.
        return self.dataset.skipped if len(self.indices) == len(self.dataset.train) else ()

    def predict(
        self, predictor: Predictor, top_k: int = 3, limit: int | None = None
    ) -> Iterator[Row]:
        """Predict the first `limit` samples, or all if it is `None`. Yield a table row for each.

        Files of the dataset that cannot be read have rows after the others.
        """
        yield from predictor.predict_samples(
            self.dataset, self.samples, self.indices[:limit], top_k=top_k
        )
        left = None if limit is None else max(0, limit - len(self.indices))
        for file in islice(self._unread, left):
            yield predictor.task.unread_row(file.path, file.reason)

    def evaluate(self, predictor: Predictor) -> Evaluation:
        """Compare the outputs of a model with the targets of the samples.

        Raises:
            UsageError: The targets do not fit the model, for instance other classes.
        """
        return predictor.evaluate(self.dataset, self.samples, self.indices)


@dataclass(frozen=True)
class RunData:
    """The data that a run was trained on.

    Attributes:
        reference: Reference of the dataset, such as `"images:/path"`.
        validation_fraction: Fraction of the data that was kept for validation.
        seed: Random seed of the split into training and validation.
        fingerprint: Digest of the data and of the split when the model was trained.
        task: Name of the task for which the model was trained.
    """

    reference: str
    validation_fraction: float
    seed: int
    fingerprint: str
    task: str = DEFAULT_TASK


def find_inputs(
    named: Sequence[str],
    *,
    image_shape: tuple[int, int, int],
    datasets: Registry[DatasetSpec],
    trained_on: RunData,
    tasks: Registry[TaskSpec] | None = None,
) -> list[FileInputs | SampleInputs]:
    """Find the images to predict.

    Args:
        named: Image files, folders of images and references to datasets, as the user wrote them.
        image_shape: (H, W, C) of the model's images.
        datasets: Registry of the datasets that plugins declare.
        trained_on: The data that the model was trained on. If `named` contains this dataset, only
            its validation samples are predicted.
        tasks: Registry of the tasks; by default those of the installed plugins.

    Returns:
        The inputs in the order of `named`. A file that is named twice, or is also in a named
        folder, is predicted once.

    Raises:
        UsageError: A name is neither a file nor a folder nor a dataset.
        DataError: No image was found.
    """
    found: list[FileInputs | SampleInputs] = []
    seen: set[str] = set()
    for text in named:
        if os.path.isdir(text):
            listing = find_images(text)
            inputs = FileInputs(
                tuple(sorted(listing.paths, key=_natural)),
                tuple((file.path, file.reason) for file in listing.skipped),
            )
        elif _is_image_path(text):
            inputs = FileInputs((text,))
        else:
            samples = open_samples(
                text, image_shape, datasets, trained_on, need_labels=False, tasks=tasks
            )
            found.append(samples)
            continue
        found.append(
            FileInputs(
                tuple(path for path in inputs.paths if _first_time(path, seen)),
                tuple(error for error in inputs.errors if _first_time(error[0], seen)),
            )
        )
    if not any(len(inputs) for inputs in found):
        raise DataError(
            f"no image was found in {', '.join(named)}; images have one of these endings: "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def open_samples(
    reference: str,
    image_shape: tuple[int, int, int],
    datasets: Registry[DatasetSpec],
    trained_on: RunData,
    *,
    need_labels: bool = True,
    tasks: Registry[TaskSpec] | None = None,
) -> SampleInputs:
    """Open a dataset for prediction or evaluation with a trained model.

    Args:
        reference: Reference of the dataset.
        image_shape: (H, W, C) of the model's images.
        datasets: Registry of the datasets that plugins declare.
        trained_on: The data that the model was trained on.
        need_labels: Whether a dataset without labels is an error.
        tasks: Registry of the tasks; by default those of the installed plugins.

    Returns:
        The validation samples if the model was trained on this dataset. Otherwise all samples,
        sorted by name; numbers in the names are compared by value, so `9.png` precedes `10.png`.

    Raises:
        UsageError: There is no such dataset, it is for another task, or its images cannot be
            converted to `image_shape`.
        DataError: The dataset cannot be read.
    """
    tasks = discover().tasks if tasks is None else tasks
    options = DataOptions(
        image_size=image_shape[:2],
        color="grayscale" if image_shape[2] == 1 else "rgb",
        validation_fraction=trained_on.validation_fraction,
        seed=trained_on.seed,
        purpose="evaluation" if need_labels else "prediction",
    )
    dataset = _open(reference, datasets, options, tasks)
    if dataset.image_shape != image_shape:
        raise UsageError(
            f"the images of {reference} are {_times(dataset.image_shape)}, the model takes "
            f"{_times(image_shape)}: use another dataset"
        )
    if dataset.labelled and not tasks.same(trained_on.task, dataset.task):
        own, task = (tasks.shortest_name(tasks[name]) for name in (trained_on.task, dataset.task))
        raise UsageError(
            f"{reference} is for the task {task!r}, and the model of this run is for {own!r}: use "
            "another dataset"
        )
    if not dataset.labelled:
        samples, what = dataset.train, dataset.name
        indices = np.arange(len(samples))
    elif dataset.fingerprint == trained_on.fingerprint or reference == trained_on.reference:
        samples, what = dataset.validation, f"the validation part of {dataset.name}"
        indices = np.arange(len(samples))
    else:
        samples, what = _Joined(dataset.train, dataset.validation), dataset.name
        keys = [_natural(name) for name in samples.names]
        indices = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    return SampleInputs(dataset, samples, indices, what)


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


def _open(
    reference: str,
    datasets: Registry[DatasetSpec],
    options: DataOptions,
    tasks: Registry[TaskSpec],
) -> Dataset:
    try:
        return open_dataset(reference, datasets, options, tasks)
    except UsageError as error:
        if options.image_size is None:
            raise
        # The dataset did not accept the size or the color of the model. A csv file of pixels, for
        # instance, has its own size and color. Open the dataset without these options.
        try:
            return open_dataset(
                reference, datasets, replace(options, image_size=None, color="auto"), tasks
            )
        except UsageError:
            raise error from None


def _is_image_path(text: str) -> bool:
    suffix = os.path.splitext(text)[1].lower()
    return suffix in IMAGE_SUFFIXES or (os.path.lexists(text) and suffix != ".csv")


def _first_time(path: str, seen: set[str]) -> bool:
    key = os.path.abspath(path)
    if key in seen:
        return False
    seen.add(key)
    return True


def _natural(text: str) -> list[tuple[int, str]]:
    # The parts are alternately text and numbers, and the first part is always text. Sorting
    # compares parts at the same index, so it never compares text with a number.
    parts = re.split(r"([0-9]+)", text)
    return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)]


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
