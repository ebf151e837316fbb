"""Find the layer that computes the first value that is not finite.

The search runs only after training has met a loss or a weight that is not finite, so it does not
slow down other runs. The search trains again on the batches since the last saved state, one batch
at a time, which gives the same values, bit for bit. In this way it finds the first batch that leads
to a value that is not finite. Then it computes this batch again and checks the outputs of every
layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from cnnforge.backends import Trainer
from cnnforge.utils.watched_layers import describe_layer, float_arrays, watched

Batch = tuple[np.ndarray, Mapping[str, np.ndarray]]


def find_in_training(
    trainer: Trainer,
    model: keras.Model,
    arrays: Sequence[np.ndarray],
    batches: Iterable[Batch],
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[int, str]:
    """Find the first value that is not finite in the replayed batches.

    The search leaves the variables of the trainer changed, so training cannot continue after it.

    Args:
        trainer: Trainer of the model.
        model: The model.
        arrays: Variables of the trainer before the first batch, all of them finite.
        batches: Images, (N, H, W, C) uint8, and targets of the batches to replay.
        should_stop: Function that is called before every batch. If it returns true, the search
            ends.

    Returns:
        Two values: the index of the batch, from 0, and a description of the value, for instance
        `"the outputs of layer 'conv1' (Conv2D)"`. The description is empty if no such value was
        found.
    """
    number = 0
    for number, (images, targets) in enumerate(batches):
        trainer.restore(arrays)
        if should_stop():
            break
        failed = trainer.train(images, targets, {}).failed is not None
        after = trainer.arrays()
        if failed or not _finite(after):
            trainer.restore(arrays)
            found = _first_output(trainer, model, images, training=True)
            if not found and not failed:
                trainer.restore(arrays)
                found = _first_gradient(trainer, model, images, targets, after)
            return number, found
        arrays = after
    return number, ""


def find_in_prediction(trainer: Trainer, model: keras.Model, batches: Iterable[np.ndarray]) -> str:
    """Find the first value that is not finite when a model predicts images.

    Args:
        trainer: Trainer of the model.
        model: The model.
        batches: Batches of images, (N, H, W, C) uint8.

    Returns:
        A description of the value, as in `find_in_training`; empty if no such value was found.
    """
    for images in batches:
        if found := _first_output(trainer, model, images, training=False):
            return found
    return ""


def _first_output(
    trainer: Trainer, model: keras.Model, images: np.ndarray, *, training: bool
) -> str:
    found: list[str] = []

    def look(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
        # A layer that contains others, such as a nested model, returns after them. The first layer
        # found is therefore the innermost one, so ignore all later layers.
        if not found and not _finite(outputs):
            sizes = [
                f"{what} up to {size:.3g}"
                for what, values in (("inputs", inputs), ("weights", layer.weights))
                if (size := _max_abs(values)) is not None
            ]
            after = f", with {' and '.join(sizes)} in absolute value" if sizes else ""
            found.append(f"the outputs of {describe_layer(layer)}{after}")

    with watched(model, look):
        trainer.forward(images, training=training)
    if not found and training and not _finite(model.losses):
        found.append("the regularization losses of the layers")
    return found[0] if found else ""


def _first_gradient(
    trainer: Trainer,
    model: keras.Model,
    images: np.ndarray,
    targets: Mapping[str, np.ndarray],
    after: Sequence[np.ndarray],
) -> str:
    gradients = trainer.gradients(images, targets)
    variables = model.trainable_variables
    # Backpropagation computes the gradients of the last layer first, so search from the end.
    for variable, gradient in reversed(list(zip(variables, gradients, strict=True))):
        if gradient is not None and not _finite(gradient):
            return f"the gradient of {variable.path}"
    for variable, array in zip(trainer.variables(), after, strict=True):
        if not _finite(array):
            return f"{variable.path}, after a step with finite gradients"
    return ""


def _finite(values: Any) -> bool:
    return all(bool(np.isfinite(array).all()) for array in float_arrays(values))


def _max_abs(values: Any) -> float | None:
    sizes = [float(np.abs(array).max()) for array in float_arrays(values) if array.size]
    return max(sizes, default=None)
