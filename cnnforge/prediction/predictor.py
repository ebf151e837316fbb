"""Predict images with a trained model, and evaluate the model on samples of a dataset."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.backends import BatchPredictor
from cnnforge.conversion import Kernels, forge
from cnnforge.data import Dataset, Samples, UnreadableImage, printable, read_image
from cnnforge.data.files import in_parallel
from cnnforge.data.prefetch import MAX_BYTES, StepsPerCall, chunks, images_only
from cnnforge.errors import PluginError, RunError, message_of
from cnnforge.plugin import LayerSpec, TaskSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.prediction.reference_predictions import MAX_DRIFT, reference_drift
from cnnforge.runs import RunDirectory
from cnnforge.tasks import Evaluation, Row, Task, open_task


class Predictor:
    """Predicts images and evaluates samples with a trained model.

    Args:
        model: Model that takes (N, H, W, C) float32 pixel values 0..255.
        task: Task that the model was trained for.
        batch_size: Number of images per call of the model.

    Attributes:
        task: Task that the model was trained for.
        image_shape: (H, W, C) of the model's images.
        drift: Max difference between the outputs of the model and its reference predictions, which
            were saved with it (see `reference_drift`). `None` if they were not compared.

    Raises:
        RunError: The model does not take images, or its outputs do not fit the task.
    """

    def __init__(self, model: keras.Model, task: Task, batch_size: int = 64) -> None:
        inputs = model.input_shape
        if not isinstance(inputs, tuple) or len(inputs) != 4 or None in inputs[1:]:
            raise RunError(
                f"the model takes inputs of shape {inputs}, not images of one size (N, H, W, C)"
            )
        try:
            task.check_model(model)
        except ValueError as error:
            raise RunError(
                f"the model has {error}: model.keras and the other files do not belong together"
            ) from error
        self.drift: float | None = None
        self.task = task
        self.image_shape: tuple[int, int, int] = (inputs[1], inputs[2], inputs[3])
        self._batch_size = batch_size
        self._batches = BatchPredictor(model, batch_size)

    @classmethod
    def open(
        cls,
        run: RunDirectory,
        *,
        layers: Registry[LayerSpec],
        tasks: Registry[TaskSpec],
        kernels: Kernels = "auto",
        changed: str = "",
    ) -> Predictor:
        """Open the model of a run. The training data are not needed.

        Args:
            run: Run with `model.keras` and the files of its task.
            layers: Registry of the plugin layers, which may replace layers of Keras.
            tasks: Registry of the tasks that plugins declare.
            kernels: `"auto"`, `"numba"` or `"keras"`. `"auto"` measures the layers as a prediction
                uses them, without gradients, so its choice may differ from that of training.
            changed: Text for the error message that says what has changed since the model was
                saved, such as the version of a plugin; empty if nothing has. If it is not empty,
                the outputs of the model are compared with its reference predictions.

        Returns:
            The predictor.

        Raises:
            UsageError: No plugin declares the task.
            RunError: The files cannot be read, the model does not fit the task, or the outputs of
                the model differ from its reference predictions.
        """
        model = load_model(run.model, layers)
        drift = None
        if changed:
            drift = reference_drift(run, model)
            if drift is not None and not drift <= MAX_DRIFT:
                raise RunError(
                    f"{run.model} no longer gives the predictions that were kept with it (an "
                    f"output differs by {drift:.2g}, {MAX_DRIFT:g} is allowed): {changed}"
                )
        predictor = cls(forge(model, kernels, layers=layers), open_task(run, tasks))
        predictor.drift = drift
        return predictor

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
            yield indices[done : done + count], self._batches.predict(chunk.images)
            done += count

    def outputs(self, samples: Samples) -> Any:
        """Return the outputs for all N samples: (N, ...) arrays in the model's output structure."""
        parts = [part for _, part in self.predict(samples)]
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)

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

    def predict_files(self, paths: Sequence[str], top_k: int = 3) -> Iterator[Row]:
        """Predict image files, and return rows of a prediction table.

        Args:
            paths: The files.
            top_k: Max number of predicted classes per row, if the task ranks classes.

        Yields:
            One row per path, in the order of the paths. The row of an unreadable file contains the
            reason instead of a prediction.
        """
        together = max(1, min(512, MAX_BYTES // int(np.prod(self.image_shape))))
        for first in range(0, len(paths), together):
            group = paths[first : first + together]
            read = in_parallel(self._read, group)
            good = [i for i, image in enumerate(read) if isinstance(image, np.ndarray)]
            images = [image for image in read if isinstance(image, np.ndarray)]
            rows: Sequence[Row] = ()
            if images:
                outputs = self._batches.predict(np.stack(images))
                rows = self.task.rows(outputs, [printable(group[i]) for i in good], None, top_k)
            found = iter(rows)
            for path, image in zip(group, read, strict=True):
                if isinstance(image, UnreadableImage):
                    yield self.task.unread_row(printable(path), image.reason)
                else:
                    yield next(found)

    def predict_samples(
        self,
        dataset: Dataset,
        samples: Samples,
        indices: np.ndarray | None = None,
        *,
        top_k: int = 3,
    ) -> Iterator[Row]:
        """Predict samples of a dataset, and return rows of a prediction table.

        Args:
            dataset: The dataset.
            samples: Samples of the dataset, with images of the model's shape.
            indices: (N,) indices of the samples; `None` means all, in their order.
            top_k: Max number of predicted classes per row, if the task ranks classes.

        Yields:
            One row per sample, in the order of `indices`.
        """
        for chosen, outputs in self.predict(samples, indices):
            yield from self.rows(dataset, samples, chosen, outputs, top_k)

    def rows(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray, outputs: Any, top_k: int = 3
    ) -> Sequence[Row]:
        """Make the rows of a prediction table from outputs that `predict` returned.

        Args:
            dataset: The dataset.
            samples: Samples of the dataset.
            indices: (n,) indices of the samples.
            outputs: Outputs of these samples.
            top_k: Max number of predicted classes per row, if the task ranks classes.

        Returns:
            One row per sample, in the order of `indices`.
        """
        names = [printable(samples.names[int(index)]) for index in indices]
        truth = self.task.truth(dataset, samples, indices)
        return self.task.rows(outputs, names, truth, top_k)

    def _read(self, path: str) -> np.ndarray | UnreadableImage:
        try:
            return read_image(path, self.image_shape)
        except UnreadableImage as error:
            return error


def load_model(path: Path, layers: Registry[LayerSpec]) -> keras.Model:
    """Open the model in a `.keras` file. A file that contains code raises an error.

    Args:
        path: The file.
        layers: Registry of the plugin layers. A file may contain plugin layers that do not replace
            a stock Keras layer. They are imported only if the file cannot be opened without them.

    Returns:
        The model, not compiled.

    Raises:
        RunError: The file is missing, damaged or refused, or has a layer that no plugin declares.
    """
    try:
        try:
            return _open(path)
        except TypeError:
            # Keras raises TypeError for a class that it does not know. Import the plugin layers
            # that a file may contain, and try again.
            own = [spec for spec in layers.values() if spec.reference is None]
            if not own:
                raise
            broken = []
            for spec in own:
                try:
                    spec.load()
                except PluginError as error:
                    # Raise this error only if the file cannot be opened: the model perhaps does not
                    # contain this layer.
                    broken.append(error)
            try:
                return _open(path)
            except TypeError:
                if broken:
                    raise broken[0] from None
                raise
    except Exception as error:
        reason = message_of(error)
        # For a file that is not a zip archive, Keras says that it does not exist. Replace this
        # wrong reason.
        if path.is_file() and not zipfile.is_zipfile(path):
            reason = "it is damaged or not a Keras model; expected a .keras file, or a run"
        raise RunError(f"{path} cannot be opened: {reason[:300]}") from error


def _open(path: Path) -> keras.Model:
    return keras.saving.load_model(path, compile=False, safe_mode=True)
