"""A trained model, ready to classify."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from cnnforge.backends import Classifier
from cnnforge.conversion import Kernels, forge
from cnnforge.data import Samples, UnreadableImage, read_image
from cnnforge.data.files import in_parallel
from cnnforge.data.prefetch import MAX_BYTES, ChunkSize, chunks
from cnnforge.errors import PluginError, RunError, message_of
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.prediction.reference_predictions import LARGEST_DRIFT, golden_drift
from cnnforge.prediction.rows import Prediction, rank
from cnnforge.runs import RunDirectory


class Predictor:
    """Classifies images with a model.

    Args:
        model: Takes (N, H, W, C) float32 pixel values 0..255 and gives (N, classes) probabilities.
        classes: The names of its classes.
        batch_size: Images per step; what is read together is several steps' worth.

    Attributes:
        drift: By how much a probability differs from those that were kept with the model; `None`
            where they were not compared.

    Raises:
        RunError: The model is no image classifier, or has another number of classes.
    """

    def __init__(self, model: keras.Model, classes: Sequence[str], batch_size: int = 64) -> None:
        inputs, outputs = model.input_shape, model.output_shape
        if not isinstance(inputs, tuple) or len(inputs) != 4 or None in inputs[1:]:
            raise RunError(
                f"the model takes inputs of shape {inputs}, not images of one size (N, H, W, C)"
            )
        if not isinstance(outputs, tuple) or outputs[1:] != (len(classes),):
            raise RunError(
                f"the model has outputs of shape {outputs}, but there are {len(classes)} class "
                "names: model.keras and classes.json do not belong together"
            )
        self.drift: float | None = None
        self.classes = tuple(classes)
        self.image_shape: tuple[int, int, int] = (inputs[1], inputs[2], inputs[3])
        self._batch_size = batch_size
        self._classifier = Classifier(model, batch_size)

    @classmethod
    def open(
        cls,
        run: RunDirectory,
        *,
        layers: Registry[LayerSpec],
        kernels: Kernels = "auto",
        changed: str = "",
    ) -> Predictor:
        """Open the model of a run; nothing but the run is needed.

        Args:
            run: Holds `model.keras` and `classes.json`.
            layers: The layers that may replace those of Keras.
            kernels: `"auto"`, `"numba"` or `"keras"`; `"auto"` measures without gradients, so that
                it may take other kernels than training did.
            changed: What is not as it was when the model was saved: a clause. The predictions that
                were kept with the model are then compared.

        Returns:
            The predictor.

        Raises:
            RunError: The files cannot be read, or do not belong together; or something has changed
                and the model does not give what it gave.
        """
        model = load_model(run.model, layers)
        drift = None
        if changed:
            drift = golden_drift(run, model)
            if drift is not None and not drift <= LARGEST_DRIFT:
                raise RunError(
                    f"{run.model} no longer gives the predictions that were kept with it (a "
                    f"probability differs by {drift:.2g}, {LARGEST_DRIFT:g} is allowed): {changed}"
                )
        predictor = cls(forge(model, kernels, layers=layers), run.read_classes())
        predictor.drift = drift
        return predictor

    def classify(
        self, samples: Samples, indices: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Classify samples.

        Args:
            samples: Images of the model's shape.
            indices: (N,) which of them; `None`: all, in their order.

        Yields:
            Some of the indices, and their probabilities: (n,) int64, (n, classes) float32.
        """
        if indices is None:
            indices = np.arange(len(samples))
        size = ChunkSize(self.image_shape, self._batch_size)
        done = 0
        for chunk in chunks(samples, indices, self._batch_size, size):
            count = len(chunk.labels)
            yield indices[done : done + count], self._classifier.predict(chunk.images)
            done += count

    def probabilities(self, samples: Samples) -> np.ndarray:
        """Classify all samples: (N, classes) float32."""
        return np.concatenate([part for _, part in self.classify(samples)])

    def predict_files(self, paths: Sequence[str], top_k: int = 3) -> Iterator[Prediction]:
        """Classify image files.

        Args:
            paths: The files.
            top_k: How many classes a row names.

        Yields:
            One row per path, in their order; that of a file that cannot be read says why.
        """
        together = max(1, min(512, MAX_BYTES // int(np.prod(self.image_shape))))
        for first in range(0, len(paths), together):
            group = paths[first : first + together]
            read = in_parallel(self._read, group)
            images = [image for image in read if isinstance(image, np.ndarray)]
            top = self._rank(np.stack(images), top_k) if images else []
            ranked = iter(top)
            for path, image in zip(group, read, strict=True):
                if isinstance(image, UnreadableImage):
                    yield Prediction(path, error=image.reason)
                else:
                    yield Prediction(path, next(ranked))

    def predict_samples(
        self,
        samples: Samples,
        indices: np.ndarray | None = None,
        *,
        top_k: int = 3,
        label_names: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Classify samples.

        Args:
            samples: Images of the model's shape.
            indices: (N,) which of them; `None`: all, in their order.
            top_k: How many classes a row names.
            label_names: The names of the samples' labels, if they are not the model's; empty where
                the labels mean nothing.

        Yields:
            One row per sample, in the order of `indices`.
        """
        names = self.classes if label_names is None else label_names
        for chosen, probabilities in self.classify(samples, indices):
            for index, top in zip(chosen, rank(probabilities, self.classes, top_k), strict=True):
                label = names[int(samples.labels[index])] if names else None
                yield Prediction(samples.names[int(index)], top, label)

    def rows(self, samples: Samples, probabilities: np.ndarray, top_k: int = 3) -> list[Prediction]:
        """Make rows of samples that were classified before.

        Args:
            samples: N samples, labelled with the model's classes.
            probabilities: (N, classes), as `probabilities` returned them.
            top_k: How many classes a row names.

        Returns:
            One row per sample.
        """
        ranked = rank(probabilities, self.classes, top_k)
        return [
            Prediction(name, top, self.classes[label])
            for name, top, label in zip(samples.names, ranked, samples.labels, strict=True)
        ]

    def _rank(self, images: np.ndarray, top_k: int) -> list[tuple[tuple[str, float], ...]]:
        return rank(self._classifier.predict(images), self.classes, top_k)

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
