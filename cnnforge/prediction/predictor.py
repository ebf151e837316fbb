"""Predict images with a trained model, and evaluate the model on samples of a dataset.

Nothing here needs Keras: the model is a plan, or a Keras model in `keras_model.KerasModel`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cnnforge.data import Dataset, Samples, printable
from cnnforge.data.prefetch import StepsPerCall, chunks, images_only
from cnnforge.prediction.read_images import ReadImages, group_size, read_images
from cnnforge.tasks import Evaluation, Row, Source, Task, prediction_options
from cnnforge.utils.structures import map_structure

BATCH_SIZE = 64
"""Number of images per call of a model."""


class OpenedModel(Protocol):
    """A model that is ready to predict."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the model's images."""
        ...

    def predict(self, images: np.ndarray) -> Any:
        """Compute the outputs for images.

        Args:
            images: (N, H, W, C) pixel values 0..255, uint8 or float32.

        Returns:
            (N, ...) arrays in the structure of the model's outputs.
        """
        ...


class Predictor:
    """Predicts images and evaluates samples with a trained model.

    Args:
        model: The model; see `open_predictor` and `keras_model.keras_predictor`.
        task: Task that the model was trained for.
        batch_size: Number of images per call of the model.

    Attributes:
        task: Task that the model was trained for.
        image_shape: (H, W, C) of the model's images.
        drift: Max difference between the outputs of the model and its reference predictions, which
            were saved with it (see `reference_drift`). `None` if they were not compared.
    """

    def __init__(self, model: OpenedModel, task: Task, batch_size: int = BATCH_SIZE) -> None:
        self.drift: float | None = None
        self.task = task
        self.image_shape = model.image_shape
        self._batch_size = batch_size
        self._model = model

    def predict(
        self, samples: Samples, indices: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Compute the outputs of the model for samples, batch by batch.

        Args:
            samples: Samples with images of the model's shape.
            indices: (N,) indices of the samples; `None` means all, in their order.

        Yields:
            Pairs: the indices of the next n samples, (n,) int64, and the outputs of these samples,
            (n, ...) arrays in the structure of the model's outputs.
        """
        if indices is None:
            indices = np.arange(len(samples))
        size = StepsPerCall(self.image_shape, self._batch_size)
        done = 0
        for chunk in chunks(images_only(samples), indices, self._batch_size, size):
            count = len(chunk.images)
            yield indices[done : done + count], self._model.predict(chunk.images)
            done += count

    def predict_images(self, images: np.ndarray) -> Any:
        """Compute the outputs of the model for images.

        Args:
            images: (N, H, W, C) pixel values 0..255 of the model's shape, uint8 or float32.

        Returns:
            (N, ...) arrays in the structure of the model's outputs.
        """
        return self._model.predict(images)

    def outputs(self, samples: Samples) -> Any:
        """Return the outputs for all N samples: (N, ...) arrays in the model's output structure."""
        parts = [part for _, part in self.predict(samples)]
        return map_structure(lambda *arrays: np.concatenate(arrays), *parts)

    def evaluate(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray | None = None
    ) -> Evaluation:
        """Compare the outputs of the model for samples with the targets of the samples.

        Args:
            dataset: The dataset.
            samples: Samples of the dataset, with images of the model's shape.
            indices: (N,) indices of the samples; `None` means all.

        Returns:
            The evaluation.

        Raises:
            UsageError: The targets do not fit the model, for instance other classes.
        """
        if indices is None:
            indices = np.arange(len(samples))
        evaluator = self.task.evaluator(dataset, samples, indices)
        for _, outputs in self.predict(samples, indices):
            evaluator.add(outputs)
        return evaluator.result()

    def predict_files(self, paths: Sequence[str], **options: Any) -> Iterator[Row]:
        """Predict image files, and return rows of a prediction table.

        Args:
            paths: The files.
            options: Prediction options of the task, for instance `top_k=1`.

        Yields:
            One row per path, in the order of the paths. The row of an unreadable file contains the
            reason instead of a prediction.

        Raises:
            UsageError: The task does not have an option, or a value is not valid.
        """
        values = prediction_options(self.task, options)
        together = group_size(self.image_shape)
        for first in range(0, len(paths), together):
            group = paths[first : first + together]
            read = read_images(group, self.image_shape, self.task.placing)
            yield from self.predict_read(read, values)

    def predict_read(self, read: ReadImages, values: Mapping[str, Any]) -> Iterator[Row]:
        """Predict images that were read, in one call of the model.

        Args:
            read: The images.
            values: All prediction options of the task, see `prediction_options`.

        Yields:
            One row per image. The row of an unreadable image contains the reason.
        """
        found: Iterator[Row] = iter(())
        if len(read.pixels):
            good = (name for name, why in zip(read.names, read.reasons, strict=True) if why is None)
            sources = [Source(*each) for each in zip(good, read.sizes, strict=True)]
            outputs = self._model.predict(read.pixels)
            found = iter(self.task.rows(outputs, sources, None, values))
        for name, why in zip(read.names, read.reasons, strict=True):
            yield next(found) if why is None else self.task.unread_row(name, why)

    def predict_samples(
        self,
        dataset: Dataset,
        samples: Samples,
        indices: np.ndarray | None = None,
        **options: Any,
    ) -> Iterator[Row]:
        """Predict samples of a dataset, and return rows of a prediction table.

        Args:
            dataset: The dataset.
            samples: Samples of the dataset, with images of the model's shape.
            indices: (N,) indices of the samples; `None` means all, in their order.
            options: Prediction options of the task, for instance `top_k=1`.

        Yields:
            One row per sample, in the order of `indices`.

        Raises:
            UsageError: The task does not have an option, or a value is not valid.
        """
        values = prediction_options(self.task, options)
        for chosen, outputs in self.predict(samples, indices):
            yield from self._rows(dataset, samples, chosen, outputs, values)

    def rows(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray, outputs: Any, **options: Any
    ) -> Sequence[Row]:
        """Make the rows of a prediction table from outputs that `predict` returned.

        Args:
            dataset: The dataset.
            samples: Samples of the dataset.
            indices: (n,) indices of the samples.
            outputs: Outputs of these samples.
            options: Prediction options of the task, for instance `top_k=1`.

        Returns:
            One row per sample, in the order of `indices`.

        Raises:
            UsageError: The task does not have an option, or a value is not valid.
        """
        values = prediction_options(self.task, options)
        return self._rows(dataset, samples, indices, outputs, values)

    def _rows(
        self,
        dataset: Dataset,
        samples: Samples,
        indices: np.ndarray,
        outputs: Any,
        values: Mapping[str, Any],
    ) -> Sequence[Row]:
        sizes = getattr(samples, "sizes", None)
        own = np.tile(self.image_shape[:2], (len(indices), 1)) if sizes is None else sizes[indices]
        sources = [
            Source(printable(samples.names[int(index)]), (int(size[0]), int(size[1])))
            for index, size in zip(indices, own, strict=True)
        ]
        truth = self.task.truth(dataset, samples, indices)
        return self.task.rows(outputs, sources, truth, values)
