"""A trained model, ready to predict."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.backends import BatchPredictor
from cnnforge.conversion import Kernels, forge
from cnnforge.data import Dataset, Samples, UnreadableImage, read_image
from cnnforge.data.files import in_parallel
from cnnforge.data.prefetch import MAX_BYTES, ChunkSize, chunks, images_only
from cnnforge.errors import PluginError, RunError, message_of
from cnnforge.plugin import LayerSpec, TaskSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.prediction.reference_predictions import LARGEST_DRIFT, golden_drift
from cnnforge.runs import RunDirectory
from cnnforge.tasks import Evaluation, Row, Task, open_task


class Predictor:
    """Predicts with a model.

    Args:
        model: Takes (N, H, W, C) float32 pixel values 0..255.
        task: What its outputs mean.
        batch_size: Images per step; what is read together is several steps' worth.

    Attributes:
        task: What the model's outputs mean.
        image_shape: (H, W, C) of the images that it takes.
        drift: By how much an output differs from those that were kept with the model; `None` if
            they were not compared.

    Raises:
        RunError: The model does not take images, or its outputs are not those of the task.
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
        """Open the model of a run; nothing but the run is needed.

        Args:
            run: Holds `model.keras`, and what its task has written.
            layers: The layers that may replace those of Keras.
            tasks: The known tasks.
            kernels: `"auto"`, `"numba"` or `"keras"`; `"auto"` measures without gradients, so that
                it may take other kernels than training did.
            changed: What is not as it was when the model was saved: a clause. The predictions that
                were kept with the model are then compared.

        Returns:
            The predictor.

        Raises:
            UsageError: No plugin declares the task.
            RunError: The files cannot be read, or do not belong together; or something has changed
                and the model does not give what it gave.
        """
        model = load_model(run.model, layers)
        drift = None
        if changed:
            drift = golden_drift(run, model)
            if drift is not None and not drift <= LARGEST_DRIFT:
                raise RunError(
                    f"{run.model} no longer gives the predictions that were kept with it (an "
                    f"output differs by {drift:.2g}, {LARGEST_DRIFT:g} is allowed): {changed}"
                )
        predictor = cls(forge(model, kernels, layers=layers), open_task(run, tasks))
        predictor.drift = drift
        return predictor

    def predict(
        self, samples: Samples, indices: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Compute the outputs of samples.

        Args:
            samples: Images of the model's shape.
            indices: (N,) which of them; `None`: all, in their order.

        Yields:
            Some of the indices, and their outputs: (n,) int64, and (n, ...) arrays in the
            structure of the model's outputs.
        """
        if indices is None:
            indices = np.arange(len(samples))
        size = ChunkSize(self.image_shape, self._batch_size)
        done = 0
        for chunk in chunks(images_only(samples), indices, self._batch_size, size):
            count = len(chunk.images)
            yield indices[done : done + count], self._batches.predict(chunk.images)
            done += count

    def outputs(self, samples: Samples) -> Any:
        """Compute the outputs of all samples: (N, ...) arrays."""
        parts = [part for _, part in self.predict(samples)]
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)

    def evaluate(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray | None = None
    ) -> Evaluation:
        """Compare the outputs of samples with what is true of them.

        Args:
            dataset: The dataset.
            samples: Some of its samples, of the model's shape.
            indices: (N,) which of them; `None`: all.

        Returns:
            The evaluation.

        Raises:
            UsageError: The model cannot know the targets of these samples.
        """
        if indices is None:
            indices = np.arange(len(samples))
        evaluator = self.task.evaluator(dataset, samples, indices)
        for _, outputs in self.predict(samples, indices):
            evaluator.add(outputs)
        return evaluator.result()

    def predict_files(self, paths: Sequence[str], top_k: int = 3) -> Iterator[Row]:
        """Predict image files.

        Args:
            paths: The files.
            top_k: How many answers a row may name.

        Yields:
            One row per path, in their order; that of a file that cannot be read says why.
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
                rows = self.task.rows(outputs, [group[i] for i in good], None, top_k)
            found = iter(rows)
            for path, image in zip(group, read, strict=True):
                if isinstance(image, UnreadableImage):
                    yield self.task.unread_row(path, image.reason)
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
        """Predict samples.

        Args:
            dataset: The dataset.
            samples: Some of its samples, of the model's shape.
            indices: (N,) which of them; `None`: all, in their order.
            top_k: How many answers a row may name.

        Yields:
            One row per sample, in the order of `indices`.
        """
        for chosen, outputs in self.predict(samples, indices):
            yield from self.rows(dataset, samples, chosen, outputs, top_k)

    def rows(
        self, dataset: Dataset, samples: Samples, indices: np.ndarray, outputs: Any, top_k: int = 3
    ) -> Sequence[Row]:
        """Make rows of outputs that were computed before.

        Args:
            dataset: The dataset.
            samples: Some of its samples.
            indices: (n,) which of them.
            outputs: Their outputs, as `predict` returned them.
            top_k: How many answers a row may name.

        Returns:
            One row per sample.
        """
        names = [samples.names[int(index)] for index in indices]
        truth = self.task.truth(dataset, samples, indices)
        return self.task.rows(outputs, names, truth, top_k)

    def _read(self, path: str) -> np.ndarray | UnreadableImage:
        try:
            return read_image(path, self.image_shape)
        except UnreadableImage as error:
            return error


def load_model(path: Path, layers: Registry[LayerSpec]) -> keras.Model:
    """Open a `.keras` file; code that it may hold is refused.

    Args:
        path: The file.
        layers: The known layers. Those that stand for no layer of Keras' own may be in the file;
            they are imported only when Keras alone cannot open it.

    Returns:
        The model, not compiled.

    Raises:
        RunError: It is missing, damaged, refused, or holds a layer that nobody declares.
    """
    try:
        try:
            return _open(path)
        except TypeError:
            # Keras' answer to a class that it does not know.
            own = [spec for spec in layers.values() if spec.reference is None]
            if not own:
                raise
            broken = []
            for spec in own:
                try:
                    spec.load()
                except PluginError as error:
                    # It may be another plugin's, and no part of this model.
                    broken.append(error)
            try:
                return _open(path)
            except TypeError:
                if broken:
                    raise broken[0] from None
                raise
    except Exception as error:
        reason = message_of(error)
        # Keras says of such a file that there is none.
        if path.is_file() and not zipfile.is_zipfile(path):
            reason = "it is damaged or no Keras model; expected a .keras file, or a run"
        raise RunError(f"{path} cannot be opened: {reason[:300]}") from error


def _open(path: Path) -> keras.Model:
    return keras.saving.load_model(path, compile=False, safe_mode=True)
