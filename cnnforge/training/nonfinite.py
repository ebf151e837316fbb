"""Which layer gave the first number that is not finite.

Nothing is looked at while training is healthy. Once the loss is not finite, the batches since the
last state are taken again, one at a time, which gives the same numbers bit for bit, and the first
of them after which something is not finite is computed layer by layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from cnnforge.backends import Trainer

Batch = tuple[np.ndarray, Mapping[str, np.ndarray]]


def of_training(
    trainer: Trainer,
    model: keras.Model,
    arrays: Sequence[np.ndarray],
    batches: Iterable[Batch],
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[int, str]:
    """Say where training first gave a number that is not finite. The trainer is not fit to go on.

    Args:
        trainer: What trained the model.
        model: The model.
        arrays: The variables to start from, all of them finite.
        batches: The (N, H, W, C) uint8 images and the targets of the batches since then.
        should_stop: Asked before every batch; after `True` nothing more is looked for.

    Returns:
        In which of the batches, from 0, and what it was, for instance `"the outputs of layer
        'conv1' (Conv2D)"`; nothing where it was not found.
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


def of_prediction(trainer: Trainer, model: keras.Model, batches: Iterable[np.ndarray]) -> str:
    """Say which layer first gives a number that is not finite where nothing is trained.

    Args:
        trainer: What trained the model.
        model: The model.
        batches: (N, H, W, C) uint8 images.

    Returns:
        What it was, as `of_training`.
    """
    return next(
        filter(None, (_first_output(trainer, model, it, training=False) for it in batches)), ""
    )


def _first_output(
    trainer: Trainer, model: keras.Model, images: np.ndarray, *, training: bool
) -> str:
    found: list[str] = []

    def look(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
        # A layer that others are part of returns after them: what is theirs has been found.
        if not found and not _finite(outputs):
            sizes = [
                f"{what} up to {largest:.3g}"
                for what, values in (("inputs", inputs), ("weights", layer.weights))
                if (largest := _largest(values)) is not None
            ]
            of = f", of {' and '.join(sizes)} in size" if sizes else ""
            found.append(f"the outputs of {_name(layer)}{of}")

    with _watched(model, look):
        trainer.forward(images, training=training)
    if not found and training and not _finite(model.losses):
        found.append("what the layers' regularizers add to the loss")
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
    # The gradient of the last layer is computed first.
    for variable, gradient in reversed(list(zip(variables, gradients, strict=True))):
        if gradient is not None and not _finite(gradient):
            return f"the gradient of {variable.path}"
    for variable, array in zip(trainer.variables(), after, strict=True):
        if not _finite(array):
            return f"{variable.path}, by a step from gradients that are finite"
    return ""


@contextlib.contextmanager
def _watched(
    model: keras.Model, look: Callable[[keras.layers.Layer, Any, Any], None]
) -> Iterator[None]:
    """Have a function called with every layer of a model, its inputs and its outputs."""
    layers = [layer for layer in model._flatten_layers() if layer is not model]

    def watch(layer: keras.layers.Layer) -> None:
        call = layer.call

        def watched(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            look(layer, args, outputs)
            return outputs

        # An attribute of the object, and not of what Keras keeps track of.
        object.__setattr__(layer, "call", watched)

    try:
        for layer in layers:
            watch(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def _arrays(values: Any) -> Iterator[np.ndarray]:
    for value in keras.tree.flatten(values):
        if value is not None and not isinstance(value, bool | str):
            array = np.asarray(keras.ops.convert_to_numpy(value))
            if array.dtype.kind == "f":
                yield array


def _finite(values: Any) -> bool:
    return all(bool(np.isfinite(array).all()) for array in _arrays(values))


def _largest(values: Any) -> float | None:
    sizes = [float(np.abs(array).max()) for array in _arrays(values) if array.size]
    return max(sizes, default=None)


def _name(layer: keras.layers.Layer) -> str:
    return f"layer {layer.name!r} ({type(layer).__name__})"
