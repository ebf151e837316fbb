"""Write a model of stock layers in each format."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.errors import CnnforgeError, one_line
from cnnforge.utils.held_back import held_back_stderr


def write_model(
    name: str,
    model: keras.Model,
    names: Sequence[str],
    path: Path,
    calibration: np.ndarray | None = None,
) -> None:
    """Write a model.

    Args:
        name: Name of the format, other than `"plan"`.
        model: The model, of stock layers, that takes (N, H, W, C) float32 pixels.
        names: Names of its outputs, in the order of `keras.tree.flatten`.
        path: The file, or the folder of a SavedModel, which must not exist.
        calibration: (n, H, W, C) uint8 images, from which the ranges of the values between layers
            are taken; the weights become 8-bit integers. `None`: everything stays float32.

    Raises:
        CnnforgeError: The format cannot express the model.
        OSError: The file cannot be written.
    """
    if name == "keras":
        model.save(path)
        return
    named = keras.Model(
        model.inputs[0], dict(zip(names, keras.tree.flatten(model.outputs), strict=True))
    )
    kinds: dict[str, Any] = {"savedmodel": "tf_saved_model", "onnx": "onnx", "litert": "litert"}
    options = {} if calibration is None else _quantized(calibration)
    try:
        # Keras refuses to export a model that was never called.
        named(np.zeros((1, *model.inputs[0].shape[1:]), np.float32), training=False)
        with held_back_stderr(), _quiet():
            named.export(str(path), format=kinds[name], verbose=False, **options)
    except OSError:
        raise
    except Exception as error:
        raise CnnforgeError(
            f"Keras cannot write the model as {name}: {one_line(error)[:300]}; choose another "
            "--format"
        ) from error


def _quantized(images: np.ndarray) -> dict[str, Any]:
    """Return the options of the LiteRT converter for 8-bit integers."""
    import tensorflow as tf

    def representative() -> Iterator[list[np.ndarray]]:
        for image in images:
            yield [image[None].astype(np.float32)]

    # An operation without an integer kernel stays in float32.
    sets = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    return {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": representative,
        "target_spec": {"supported_ops": sets},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings and messages of the converters, which the user cannot act on."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
