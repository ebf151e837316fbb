"""Check the models and datasets that a plugin declares."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.conversion import forge, lower
from cnnforge.conversion.certificate import certify
from cnnforge.data import DataOptions, Dataset
from cnnforge.errors import CnnforgeError
from cnnforge.plugin import DatasetSpec, LayerSpec, ModelSpec
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.plugin_host.registry import Registry
from cnnforge.tasks import Task, load_task, task_for
from cnnforge.testing._subject import explained
from cnnforge.testing.cases import Check

_SHAPES = ((28, 28, 1), (32, 32, 3))
_LOOKED_AT = 4


def model_checks(model: str | ModelSpec, plugins: Plugins | None = None) -> list[Check]:
    """List the checks of a model.

    Args:
        model: The name of a declared model, qualified or short; or its spec.
        plugins: Plugins that declare the model and its task; by default the installed ones.

    Returns:
        The checks.

    Raises:
        UnknownNameError: No plugin declares such a model.
        AmbiguousNameError: Several plugins declare such a model.
    """
    plugins = plugins or discover()
    spec = plugins.models[model] if isinstance(model, str) else model
    task = load_task(plugins.tasks[spec.task]).example()
    shapes = [(*size, 3) for size in spec.sizes] or _SHAPES
    runs: dict[str, Callable[..., str]] = {
        "builds": _builds,
        "config_round_trip": _config_round_trip,
        "saves": _saves,
        "forges": partial(_forges, plugins.layers),
        "kernels": partial(_kernels, plugins.layers),
    }
    return [
        Check("targets", "", partial(_callable, spec, 2)),
        *(
            Check(kind, "x".join(map(str, shape)), partial(run, spec, task, shape))
            for shape in shapes
            for kind, run in runs.items()
        ),
    ]


def dataset_checks(dataset: str | DatasetSpec, plugins: Plugins | None = None) -> list[Check]:
    """List the checks of a dataset.

    Args:
        dataset: The name of a declared dataset, qualified or short; or its spec.
        plugins: Plugins that declare the dataset and its task; by default the installed ones.

    Returns:
        The checks.

    Raises:
        UnknownNameError: No plugin declares such a dataset.
        AmbiguousNameError: Several plugins declare such a dataset.
    """
    plugins = plugins or discover()
    spec = plugins.datasets[dataset] if isinstance(dataset, str) else dataset
    return [
        Check("targets", "", partial(_callable, spec, 2)),
        Check("loads", "", partial(_loads, spec, plugins)),
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


def _build(spec: ModelSpec, task: Task, shape: tuple[int, ...]) -> Any:
    with explained(f"build({shape}, {task.output_size}) fails"):
        return spec.load()(shape, task.output_size)


def _images(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.float32)


def _builds(spec: ModelSpec, task: Task, shape: tuple[int, ...]) -> str:
    """Require that the target of the spec builds a `keras.Model` with the given input shape.

    The outputs must be valid for the task.
    """
    model = _build(spec, task, shape)
    if not isinstance(model, keras.Model):
        raise AssertionError(f"build() returns a {type(model).__name__}, expected a keras.Model")
    if tuple(model.input_shape) != (None, *shape):
        raise AssertionError(
            f"the inputs of the model have the shape {model.input_shape}, not {(None, *shape)}"
        )
    try:
        task.check_model(model)
    except ValueError as error:
        raise AssertionError(f"the model has {error}") from None
    try:
        task.check_outputs(_outputs(model, shape))
    except ValueError as error:
        raise AssertionError(str(error)) from None
    return f"{model.count_params():,} parameters"


def _outputs(model: Any, shape: tuple[int, ...]) -> Any:
    return keras.tree.map_structure(np.asarray, model(_images(shape)))


def _bits(outputs: Any) -> list[bytes]:
    return [output.tobytes() for output in keras.tree.flatten(outputs)]


def _config_round_trip(spec: ModelSpec, task: Task, shape: tuple[int, ...]) -> str:
    """Require that a model made from the configuration computes the same bits."""
    model = _build(spec, task, shape)
    with explained("the model cannot be made from its configuration"):
        again = type(model).from_config(model.get_config())
        again.set_weights(model.get_weights())
    if _bits(_outputs(again, shape)) != _bits(_outputs(model, shape)):
        raise AssertionError("the model made from the configuration computes something else")
    return ""


def _saves(spec: ModelSpec, task: Task, shape: tuple[int, ...]) -> str:
    """Require that a model opened from its `.keras` file computes the same bits."""
    model = _build(spec, task, shape)
    with tempfile.TemporaryDirectory() as folder, explained("the model cannot be saved and opened"):
        path = Path(folder) / "model.keras"
        model.save(path)
        again: Any = keras.models.load_model(path)
    if _bits(_outputs(again, shape)) != _bits(_outputs(model, shape)):
        raise AssertionError("the model that was saved computes something else when opened")
    return ""


def _forges(
    layers: Registry[LayerSpec], spec: ModelSpec, task: Task, shape: tuple[int, ...]
) -> str:
    """Require that `forge` converts the model, and that `lower` converts the result back."""
    model = _build(spec, task, shape)
    with explained("forge() cannot convert the model"):
        forged = forge(model, layers=layers)
    with explained("lower() cannot convert the forged model"):
        lowered = lower(forged, layers=layers)
    expected = _outputs(model, shape)
    if _bits(_outputs(lowered, shape)) != _bits(expected):
        raise AssertionError("lower(forge(model)) does not compute the same bits as the model")
    pairs = zip(*map(keras.tree.flatten, (_outputs(forged, shape), expected)), strict=True)
    difference = max(float(np.abs(a - b).max()) / max(1.0, np.abs(b).max()) for a, b in pairs)
    if not difference < 1e-3:
        raise AssertionError(f"the forged model's outputs differ by {difference:.3g}")
    return ""


def _kernels(
    layers: Registry[LayerSpec], spec: ModelSpec, task: Task, shape: tuple[int, ...]
) -> str:
    """Require that each plugin layer of the model computes what its reference or oracle does.

    Training makes the same check at the shapes of its images.
    """
    found = certify(forge(_build(spec, task, shape), layers=layers), layers=layers)
    for check in found:
        if not check.passed:
            raise AssertionError(
                f"the kernel of layer {check.layer!r} ({check.provider}) fails at "
                f"{check.input_shape}: {check.fault}"
            )
    return f"{len(found)} checked" if found else ""


def _loads(spec: DatasetSpec, plugins: Plugins) -> str:
    """Require that the dataset, loaded without an argument, is valid.

    The function `load` of the plugin may also raise a `CnnforgeError`, for example if it needs an
    argument.
    """
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
    try:
        same = plugins.tasks.same(data.task, spec.task)
    except CnnforgeError as error:
        raise AssertionError(str(error)) from None
    if not same:
        raise AssertionError(
            f"the dataset is for the task {data.task!r}, and its spec says {spec.task!r}"
        )
    try:
        task = task_for(data, plugins.tasks, {})
    except CnnforgeError as error:
        raise AssertionError(str(error)) from None
    if not data.fingerprint:
        raise AssertionError("the dataset has no fingerprint: give it a digest of the data")
    for part, samples in (("train", data.train), ("validation", data.validation)):
        _samples(part, samples, data, task)
    found = f"{len(data.train):,} and {len(data.validation):,} samples"
    return f"{found}, {len(data.classes)} classes" if data.classes else found


def _samples(part: str, samples: Any, data: Dataset, task: Task) -> None:
    count = len(samples)
    if not count:
        raise AssertionError(f"{part} has no samples")
    if len(samples.names) != count:
        raise AssertionError(f"{part} has {count} samples and {len(samples.names)} names")
    indices = np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(np.int64))
    images = samples.fetch(indices)
    expected = (len(indices), *data.image_shape)
    if images.shape != expected or images.dtype != np.uint8:
        raise AssertionError(
            f"fetch() of {part} gives {images.dtype} of the shape {images.shape}, expected uint8 "
            f"of the shape {expected}"
        )
    for name, target in task.targets(samples, indices).items():
        if len(target) != len(indices):
            raise AssertionError(
                f"the targets {name!r} of {len(indices)} samples of {part} are {len(target)}"
            )
