"""Open the model of a run through Keras.

Keras takes seconds to import, so nothing imports this module at the top that works with a plan.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import keras
import numpy as np

from cnnforge.backends import BatchPredictor
from cnnforge.conversion import Kernels, forge
from cnnforge.errors import PluginError, RunError, message_of
from cnnforge.model_files.classes import find_class_problem
from cnnforge.model_files.content import CONFIG, check_keras_file
from cnnforge.model_files.trust import RefusedModelError, models_are_trusted
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.prediction.predictor import BATCH_SIZE, Predictor
from cnnforge.prediction.reference_predictions import Outputs
from cnnforge.tasks import Task
from cnnforge.utils.names import printable
from cnnforge.utils.structures import map_structure


class KerasModel:
    """A Keras model, with the attributes that a `Predictor` needs. Several threads may use it.

    Args:
        model: Model that takes (N, H, W, C) float32 pixel values 0..255.
        batch_size: Number of images per call of the model.

    Attributes:
        image_shape: (H, W, C) of the model's images.

    Raises:
        RunError: The model does not take images.
    """

    def __init__(self, model: keras.Model, batch_size: int = BATCH_SIZE) -> None:
        inputs = model.input_shape
        if not isinstance(inputs, tuple) or len(inputs) != 4 or None in inputs[1:]:
            raise RunError(
                f"the model takes inputs of shape {inputs}, not images of one size (N, H, W, C)"
            )
        self.image_shape: tuple[int, int, int] = (inputs[1], inputs[2], inputs[3])
        self._model, self._batch_size = model, batch_size
        self._of_dtype: dict[np.dtype, BatchPredictor] = {}
        self._lock = Lock()

    def predict(self, images: np.ndarray) -> Any:
        """Compute the outputs for images, (N, H, W, C): arrays in the model's output structure."""
        if not len(images):
            # The graph joins the outputs of batches, and needs at least one.
            one = self.predict(np.zeros((1, *images.shape[1:]), images.dtype))
            return map_structure(lambda array: array[:0], one)
        with self._lock:
            # A predictor traces its graph for the dtype of its first images.
            predictor = self._of_dtype.get(images.dtype)
            if predictor is None:
                predictor = BatchPredictor(self._model, self._batch_size)
                self._of_dtype[images.dtype] = predictor
            return predictor.predict(images)


def keras_predictor(model: keras.Model, task: Task, batch_size: int = BATCH_SIZE) -> Predictor:
    """Make a predictor of a Keras model.

    Args:
        model: Model that takes (N, H, W, C) float32 pixel values 0..255.
        task: Task that the model was trained for.
        batch_size: Number of images per call of the model.

    Raises:
        RunError: The model does not take images, or its outputs do not fit the task.
    """
    opened = KerasModel(model, batch_size)
    try:
        task.check_model(model)
    except ValueError as error:
        raise RunError(
            f"the model has {error}: model.keras and the other files do not belong together"
        ) from error
    return Predictor(opened, task, batch_size)


def forged_predictor(
    model: keras.Model, task: Task, kernels: Kernels, layers: Registry[LayerSpec]
) -> Predictor:
    """Make a predictor of a Keras model, with the layers that an option `--kernels` asks for.

    Args:
        model: A model of stock Keras layers.
        task: Task that the model was trained for.
        kernels: `"auto"`, `"numba"` or `"keras"`. `"auto"` measures the layers as a prediction uses
            them, without gradients, so its choice may differ from that of training.
        layers: Registry of the plugin layers, which may replace layers of Keras.

    Raises:
        RunError: The model does not take images, or its outputs do not fit the task.
    """
    return keras_predictor(forge(model, kernels, layers=layers), task)


def outputs_of(model: keras.Model) -> Outputs:
    """Return the function that computes the outputs of a model, for reference predictions."""

    def outputs(images: np.ndarray) -> list[np.ndarray]:
        tensors = model(keras.ops.convert_to_tensor(images.astype(np.float32)), training=False)
        return [
            np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(output)))
            for output in keras.tree.flatten(tensors)
        ]

    return outputs


def load_model(path: Path, layers: Registry[LayerSpec]) -> keras.Model:
    """Open the model in a `.keras` file. A file that contains code raises an error.

    The file is checked before Keras reads it, see `cnnforge.model_files`; if the user trusts it,
    it is not checked, and may be a `.h5` file, too.

    Args:
        path: The file.
        layers: Registry of the plugin layers. A file may contain plugin layers that do not replace
            a stock Keras layer, and references that are classes of plugins. They are imported only
            if the file cannot be opened without them.

    Returns:
        The model, not compiled.

    Raises:
        RunError: The file is missing, damaged or refused, or has a layer that no plugin declares.
    """
    config = None if models_are_trusted() else check_keras_file(path)
    try:
        try:
            return _open(path, config)
        except (TypeError, _UnknownClassError):
            # Keras raises TypeError for a class that it does not know. Import the plugin layers
            # that a file may contain, and try again.
            own = [it for it in layers.values() if it.reference is None or it.own_reference]
            if not own:
                raise
            broken = []
            for spec in own:
                try:
                    spec.load()
                    spec.load_reference()
                except PluginError as error:
                    # Raise this error only if the file cannot be opened: the model perhaps does not
                    # contain this layer.
                    broken.append(error)
            try:
                return _open(path, config)
            except (TypeError, _UnknownClassError):
                if broken:
                    raise broken[0] from None
                raise
    except RefusedModelError:
        raise
    except Exception as error:
        raise RunError(f"{path} cannot be opened: {message_of(error)[:300]}") from error


class _UnknownClassError(RunError):
    """A model file needs a class that no plugin has registered."""


def _open(path: Path, config: dict[str, Any] | None) -> keras.Model:
    """Open a file. `config` is its configuration if the classes in it are to be checked."""
    if config is None:
        return keras.saving.load_model(path, compile=False, safe_mode=False)
    problem = find_class_problem(config, _is_registered, _is_in_keras)
    if problem is None:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    if problem.package:
        raise _UnknownClassError(
            f"{printable(problem.text)} belongs neither to Keras nor to an installed plugin: "
            f"install the plugin that has {problem.package!r}, or name it with --plugin"
        )
    raise RefusedModelError(
        path,
        f"{CONFIG} names {problem.text}, expected layers of Keras or of installed plugins that "
        "take no functions and no files",
    )


def _is_registered(name: str) -> bool:
    return keras.saving.get_registered_object(name) is not None


def _is_in_keras(module: str, name: str) -> bool:
    return hasattr(getattr(keras, module), name)
