"""Open the samples of a dataset, for prediction and evaluation with the model of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
from PIL import Image

from cnnforge.data import (
    DataOptions,
    Dataset,
    DataSummary,
    Placing,
    Samples,
    SkippedFile,
    Split,
    open_dataset,
    printable,
    summarize,
)
from cnnforge.errors import DataError, UsageError
from cnnforge.plugin import DEFAULT_TASK, DatasetSpec, TaskSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.plugin_host.registry import Registry
from cnnforge.prediction.joined_samples import joined, original_of
from cnnforge.prediction.kept_split import KeptSplit, Origin
from cnnforge.prediction.predictor import Predictor
from cnnforge.tasks import Evaluation, Row, load_task
from cnnforge.utils.names import natural_key

Part = Literal["validation", "test"]
"""The part of a dataset that is evaluated."""


@dataclass(frozen=True)
class SampleInputs:
    """Samples of a dataset to predict or evaluate.

    Attributes:
        dataset: The dataset.
        samples: Samples of the dataset.
        indices: (N,) indices of the samples to predict, in order.
        what: Description for the user, for instance `"the validation part of mnist5k"`.
        notes: Messages for the user about the choice of the samples, one line each.
    """

    dataset: Dataset
    samples: Samples
    indices: np.ndarray
    what: str
    notes: tuple[str, ...] = ()

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
    def class_ids(self) -> Mapping[str, int | str]:
        """The id that the data give each class, by name; empty if they give none."""
        return getattr(self.dataset.validation, "class_ids", {})

    @property
    def _unread(self) -> tuple[SkippedFile, ...]:
        # Files that cannot be read have rows only if all samples have rows.
        return self.dataset.skipped if len(self.indices) == len(self.samples) else ()

    @property
    def summary(self) -> DataSummary:
        """Summary of the samples that are used."""
        return summarize(self.dataset, {"used": (self.samples, self.indices)})

    def predict(
        self,
        predictor: Predictor,
        limit: int | None = None,
        *,
        tiled: bool = False,
        **options: Any,
    ) -> Iterator[Row]:
        """Predict the first `limit` samples, or all if it is `None`. Yield a table row for each.

        If these are all samples of the data, files that cannot be read have rows after the others.
        `options` are the prediction options of the task.

        Raises:
            UsageError: `tiled` is true, and only image files are predicted in parts.
        """
        if tiled:
            raise UsageError(
                f"tile is for image files and folders of them, and {self.dataset.name} is a "
                "dataset: name the files, or leave it out"
            )
        yield from predictor.predict_samples(
            self.dataset, self.samples, self.indices[:limit], **options
        )
        left = None if limit is None else max(0, limit - len(self.indices))
        for file in islice(self._unread, left):
            yield predictor.task.unread_row(printable(file.path), file.reason)

    def picture(self, number: int) -> Image.Image:
        """Return the image of the row with this number, in its own size if it is a file.

        Raises:
            DataError: The file cannot be read.
        """
        pixels = original_of(self.samples, int(self.indices[number]))
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)

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
        split: The training and the validation samples of the run; `None` if the run did not keep
            them. The data are then split again, with `seed`.
    """

    reference: str
    validation_fraction: float
    seed: int
    fingerprint: str
    task: str = DEFAULT_TASK
    split: KeptSplit | None = None


class NoTestPartError(UsageError):
    """The data can be opened, but have no test part, and it was asked for."""


def open_samples(
    reference: str,
    image_shape: tuple[int, int, int],
    datasets: Registry[DatasetSpec],
    trained_on: RunData,
    *,
    need_labels: bool = True,
    part: Part = "validation",
    tasks: Registry[TaskSpec] | None = None,
) -> SampleInputs:
    """Open a dataset for prediction or evaluation with a trained model.

    Labelled images that the model was trained on are left out, with a note. An evaluation leaves
    them out of all data, a prediction only of the data that the model was trained on. If no image
    is left, all images are used, with another note.

    Args:
        reference: Reference of the dataset.
        image_shape: (H, W, C) of the model's images.
        datasets: Registry of the datasets that plugins declare.
        trained_on: The data that the model was trained on.
        need_labels: Whether a dataset without labels is an error: `True` for an evaluation.
        part: `"test"` chooses the test samples of the data, and no others. `"validation"` chooses
            from the others.
        tasks: Registry of the tasks; by default those of the installed plugins.

    Returns:
        The samples, in the order of the file or folder.

    Raises:
        UsageError: There is no such dataset, it is for another task, or its images cannot be
            converted to `image_shape`, or it has no test samples and they are asked for.
        DataError: The dataset cannot be read.
    """
    tasks = discover().tasks if tasks is None else tasks
    placing = load_task(tasks[trained_on.task]).placing
    purpose = "evaluation" if need_labels else "prediction"
    options = _options(image_shape, trained_on, purpose, placing)
    dataset = _open_of_shape(reference, image_shape, datasets, options, tasks)
    if dataset.labelled and not tasks.same(trained_on.task, dataset.task):
        own, task = (tasks.shortest_name(tasks[name]) for name in (trained_on.task, dataset.task))
        raise UsageError(
            f"{reference} is for the task {task!r}, and the model of this run is for {own!r}: "
            + ("use other data" if need_labels else "name its image files, or use other data")
        )
    if part == "test":
        if dataset.test is None:
            raise NoTestPartError(
                f"{dataset.name} has no test part, such as a sub-folder named test: leave out "
                "--part test, or name labelled data with --data"
            )
        indices = np.arange(len(dataset.test))
        return SampleInputs(dataset, dataset.test, indices, f"the test part of {dataset.name}")
    if not dataset.labelled:
        samples = dataset.train
        return SampleInputs(dataset, samples, np.arange(len(samples)), dataset.name)
    if trained_on.split is None or dataset.splits is None:
        return _split_again(reference, datasets, options, trained_on, tasks, dataset)
    origin = trained_on.split.find(_all(dataset.splits))
    is_own = trained_on.reference in (reference, dataset.name) or bool(
        2 * np.count_nonzero(origin.trained | origin.kept) >= len(origin.kept)
    )
    return _untrained(dataset, origin, is_own, leave_out=need_labels or is_own)


def training_samples(
    trained_on: RunData,
    image_shape: tuple[int, int, int],
    datasets: Registry[DatasetSpec],
    tasks: Registry[TaskSpec],
) -> SampleInputs:
    """Open the samples that the model of a run was trained on.

    Args:
        trained_on: The data of the run.
        image_shape: (H, W, C) of the model's images.
        datasets: Registry of the datasets that plugins declare.
        tasks: Registry of the tasks.

    Returns:
        The samples. A run that has not kept its split gets the training part of its data.

    Raises:
        UsageError: There is no such dataset, or its images have another shape.
        DataError: The data cannot be read, or they have none of the training samples any more.
    """
    reference = trained_on.reference
    options = _options(image_shape, trained_on, "training")
    dataset = _open_of_shape(reference, image_shape, datasets, options, tasks)
    samples, chosen = dataset.train, np.arange(len(dataset.train))
    if trained_on.split is not None and dataset.splits is not None:
        samples = joined(dataset)
        chosen = np.flatnonzero(trained_on.split.find(_all(dataset.splits)).trained)
    if not len(chosen):
        raise DataError(f"{reference} has none of the images that the model was trained on")
    return SampleInputs(dataset, samples, chosen, f"the training part of {dataset.name}")


def _untrained(dataset: Dataset, origin: Origin, is_own: bool, leave_out: bool) -> SampleInputs:
    """Choose the samples that a run was not trained on, and explain the choice in notes."""
    samples, what, notes = joined(dataset), dataset.name, []
    trained, total = int(origin.trained.sum()), len(samples)
    chosen = np.ones(total, bool)
    if trained == total:
        notes.append(
            f"the model was trained on {'this image' if total == 1 else f'all {total} images'}: "
            "the result says nothing about new images"
        )
    elif trained and leave_out:
        chosen = ~origin.trained
        notes.append(f"{trained} of {total} images are left out: the model was trained on them")
    elif trained:
        notes.append(f"the model was trained on {trained} of {total} images")
    if is_own and origin.dropped.any() and (chosen & ~origin.dropped).any():
        count = int((chosen & origin.dropped).sum())
        chosen = chosen & ~origin.dropped
        notes.append(f"{count} of {total} images are left out: copies that training left out, too")
    if copies := int((chosen & origin.copies).sum()):
        notes.append(f"{copies} of {chosen.sum()} images are exact copies of training images")
    if dataset.test is not None:
        notes.append(f"images of the test part that are left out: {len(dataset.test):,}")
    if is_own and trained < total:
        what = f"the validation part of {dataset.name}"
        new = int((chosen & ~origin.kept).sum())
        if new:
            notes.append(f"{new} of {chosen.sum()} images are new since the training of the run")
        if origin.gone:
            count = len(origin.kept.nonzero()[0]) + origin.gone
            notes.append(f"{origin.gone} of {count} validation images of the run are missing")
    return SampleInputs(dataset, samples, _in_order(dataset, samples, chosen), what, tuple(notes))


def _split_again(
    reference: str,
    datasets: Registry[DatasetSpec],
    options: DataOptions,
    trained_on: RunData,
    tasks: Registry[TaskSpec],
    dataset: Dataset,
) -> SampleInputs:
    """Choose samples for a run that has not kept its split: split the data as for training."""
    try:
        split = _open(reference, datasets, replace(options, purpose="training"), tasks)
    except DataError:
        # For instance only one class: these are not the data of the run.
        split = dataset
    if len(split.validation) and (
        split.fingerprint == trained_on.fingerprint
        or trained_on.reference in (reference, split.name)
    ):
        indices = np.arange(len(split.validation))
        what = f"the validation part of {split.name}"
        notes = ()
        if split.fingerprint != trained_on.fingerprint:
            notes = (
                "the data, or the way in which they are split, have changed since the training of "
                "the run: the model was perhaps trained on some of these images",
            )
        return SampleInputs(split, split.validation, indices, what, notes)
    samples = joined(dataset)
    return SampleInputs(
        dataset, samples, _in_order(dataset, samples, np.ones(len(samples), bool)), dataset.name
    )


def _options(
    image_shape: tuple[int, int, int],
    trained_on: RunData,
    purpose: Any,
    placing: Placing = "stretch",
) -> DataOptions:
    return DataOptions(
        image_size=image_shape[:2],
        color="grayscale" if image_shape[2] == 1 else "rgb",
        validation_fraction=trained_on.validation_fraction,
        seed=trained_on.seed,
        purpose=purpose,
        placing=placing,
    )


def _open_of_shape(
    reference: str,
    image_shape: tuple[int, int, int],
    datasets: Registry[DatasetSpec],
    options: DataOptions,
    tasks: Registry[TaskSpec],
) -> Dataset:
    dataset = _open(reference, datasets, options, tasks)
    if dataset.image_shape != image_shape:
        raise UsageError(
            f"the images of {reference} are {_times(dataset.image_shape)}, the model takes "
            f"{_times(image_shape)}: use other data"
        )
    return dataset


def _all(splits: tuple[Split, Split]) -> Split:
    first, second = splits
    return Split(
        np.concatenate([first.labels, second.labels]),
        [*first.names, *second.names],
        [*first.digests, *second.digests],
    )


def _in_order(dataset: Dataset, samples: Samples, chosen: np.ndarray) -> np.ndarray:
    """Return the indices of the chosen samples in the order of the data.

    The order of data that were split is lost. These are sorted by name.
    """
    indices = np.flatnonzero(chosen)
    if not len(dataset.validation):
        return indices
    keys = {index: natural_key(samples.names[index]) for index in map(int, indices)}
    return np.array(sorted(keys, key=keys.__getitem__), np.int64)


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


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
