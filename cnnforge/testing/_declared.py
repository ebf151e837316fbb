"""Checks of models and datasets that a plugin declares."""

from __future__ import annotations

import inspect
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.conversion import forge, lower
from cnnforge.data import DataOptions, Dataset
from cnnforge.errors import CnnforgeError
from cnnforge.plugin import DatasetSpec, ModelSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing._subject import explained
from cnnforge.testing.cases import Check

_SHAPES = ((28, 28, 1), (32, 32, 3))
_CLASSES = 10
_LOOKED_AT = 4


def model_checks(model: str | ModelSpec) -> list[Check]:
    """List the checks of a model.

    Args:
        model: The name of a declared model, qualified or short; or its spec.

    Returns:
        The checks.

    Raises:
        UnknownNameError: No plugin declares such a model.
        AmbiguousNameError: Several do.
    """
    spec = discover().models[model] if isinstance(model, str) else model
    return [
        Check("targets", "", partial(_callable, spec, 2)),
        *(
            Check(run.__name__.strip("_"), "x".join(map(str, shape)), partial(run, spec, shape))
            for shape in _SHAPES
            for run in (_builds, _config_round_trip, _saves, _forges)
        ),
    ]


def dataset_checks(dataset: str | DatasetSpec) -> list[Check]:
    """List the checks of a dataset.

    Args:
        dataset: The name of a declared dataset, qualified or short; or its spec.

    Returns:
        The checks.

    Raises:
        UnknownNameError: No plugin declares such a dataset.
        AmbiguousNameError: Several do.
    """
    spec = discover().datasets[dataset] if isinstance(dataset, str) else dataset
    return [
        Check("targets", "", partial(_callable, spec, 2)),
        Check("loads", "", partial(_loads, spec)),
    ]


def _callable(spec: ModelSpec | DatasetSpec, count: int) -> str:
    target = spec.load()
    if not callable(target):
        raise AssertionError(f"the target of {spec.name!r} is {target!r}, expected a function")
    try:
        inspect.signature(target).bind(*range(count))
    except TypeError as error:
        raise AssertionError(
            f"the target of {spec.name!r} cannot be called with {count} arguments: {error}"
        ) from None
    return ""


def _build(spec: ModelSpec, shape: tuple[int, ...]) -> Any:
    with explained(f"build({shape}, {_CLASSES}) fails"):
        return spec.load()(shape, _CLASSES)


def _images(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.float32)


def _builds(spec: ModelSpec, shape: tuple[int, ...]) -> str:
    """A `keras.Model` from raw pixels to a probability for each class."""
    model = _build(spec, shape)
    if not isinstance(model, keras.Model):
        raise AssertionError(f"build() returns a {type(model).__name__}, expected a keras.Model")
    for what, got, expected in (
        ("inputs", tuple(model.input_shape), (None, *shape)),
        ("outputs", tuple(model.output_shape), (None, _CLASSES)),
    ):
        if got != expected:
            raise AssertionError(f"the {what} of the model have the shape {got}, not {expected}")
    outputs = np.asarray(model(_images(shape)))
    if not np.isfinite(outputs).all() or (outputs < 0).any():
        raise AssertionError("the outputs are not probabilities: end the model in a softmax")
    if np.abs(outputs.sum(-1) - 1).max() > 1e-3:
        sums = outputs.sum(-1)
        raise AssertionError(
            f"the outputs of an image add up to {sums[0]:.4g}, expected 1: end the model in a "
            "softmax over the classes"
        )
    return f"{model.count_params():,} parameters"


def _config_round_trip(spec: ModelSpec, shape: tuple[int, ...]) -> str:
    """The configuration gives the same model again."""
    model = _build(spec, shape)
    with explained("the model cannot be made from its configuration"):
        again = type(model).from_config(model.get_config())
        again.set_weights(model.get_weights())
    images = _images(shape)
    if np.asarray(again(images)).tobytes() != np.asarray(model(images)).tobytes():
        raise AssertionError("the model made from the configuration computes something else")
    return ""


def _saves(spec: ModelSpec, shape: tuple[int, ...]) -> str:
    """A `.keras` file gives the same model again."""
    model, images = _build(spec, shape), _images(shape)
    with tempfile.TemporaryDirectory() as folder, explained("the model cannot be saved and opened"):
        path = Path(folder) / "model.keras"
        model.save(path)
        again: Any = keras.models.load_model(path)
    if np.asarray(again(images)).tobytes() != np.asarray(model(images)).tobytes():
        raise AssertionError("the model that was saved computes something else when opened")
    return ""


def _forges(spec: ModelSpec, shape: tuple[int, ...]) -> str:
    """`forge` takes the model, and `lower` gives it back."""
    model, images = _build(spec, shape), _images(shape)
    with explained("forge() cannot convert the model"):
        forged = forge(model)
    with explained("lower() cannot convert the forged model"):
        lowered = lower(forged)
    expected = np.asarray(model(images))
    if np.asarray(lowered(images)).tobytes() != expected.tobytes():
        raise AssertionError("lower(forge(model)) does not compute the same bits as the model")
    difference = float(np.abs(np.asarray(forged(images)) - expected).max())
    if not difference < 1e-3:
        raise AssertionError(f"the forged model's probabilities differ by {difference:.3g}")
    return ""


def _loads(spec: DatasetSpec) -> str:
    """Without an argument it gives a valid dataset, or says that it needs one."""
    try:
        data = spec.load()(None, DataOptions())
    except CnnforgeError as error:
        return f"not loaded: {error}"
    except Exception as error:
        raise AssertionError(
            f"load(None, DataOptions()) raises {type(error).__name__}: {error}; if an argument is "
            "needed, raise a cnnforge.errors.UsageError with that message"
        ) from error
    if not isinstance(data, Dataset):
        raise AssertionError(f"load() returns a {type(data).__name__}, expected a Dataset")
    if len(set(data.classes)) != len(data.classes) or len(data.classes) < 2:
        raise AssertionError(
            f"the classes are {data.classes!r}, expected two or more, all different"
        )
    if not data.fingerprint:
        raise AssertionError("the dataset has no fingerprint: a digest of what was read")
    for part, samples in (("train", data.train), ("validation", data.validation)):
        _samples(part, samples, data)
    return f"{len(data.train):,} and {len(data.validation):,} samples, {len(data.classes)} classes"


def _samples(part: str, samples: Any, data: Dataset) -> None:
    count, labels = len(samples), np.asarray(samples.labels)
    if not count:
        raise AssertionError(f"{part} has no samples")
    if labels.shape != (count,) or len(samples.names) != count:
        raise AssertionError(
            f"{part} has {count} samples, labels of the shape {labels.shape} and "
            f"{len(samples.names)} names"
        )
    if labels.dtype != np.int32 or labels.min() < 0 or labels.max() >= len(data.classes):
        raise AssertionError(
            f"the labels of {part} are {labels.dtype} from {labels.min()} to {labels.max()}, "
            f"expected int32 from 0 to {len(data.classes) - 1}"
        )
    indices = np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(np.int64))
    images = samples.fetch(indices)
    expected = (len(indices), *data.image_shape)
    if images.shape != expected or images.dtype != np.uint8:
        raise AssertionError(
            f"fetch() of {part} gives {images.dtype} of the shape {images.shape}, expected uint8 "
            f"of the shape {expected}"
        )
