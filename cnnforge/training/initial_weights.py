"""Initialize a model with weights of a run or a file: take what fits, and list what does not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cnnforge.errors import UsageError
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.tasks import Task
from cnnforge.training.weight_sources import (
    Source,
    WeightedLayer,
    open_source,
    stem,
    weighted_layers,
)
from cnnforge.utils.keras_graph import all_layers, output_layers

_MAX_LISTED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialWeights:
    """A list of the weights that a model took from a run or a file, and of the others.

    Attributes:
        source: Path of the run or the file.
        taken: Names of the weights that were taken, `layer/weight`.
        new: Reason by name for each weight that keeps its initial value; empty if the source does
            not have the weight, or if another weight of its layer does not fit.
        unused: Names of the weights of the source that the model does not have.
        hint: Advice for the user; empty if there is nothing to say.
    """

    source: str
    taken: Sequence[str]
    new: Mapping[str, str]
    unused: Sequence[str]
    hint: str = ""

    def describe(self) -> str:
        """Return the numbers, the weights that are new, and the hint, in one line for the user."""
        total = len(self.taken) + len(self.new)
        count = f"{len(self.taken)} of {total}" if self.new else f"all {total}"
        reasons = [f"{name} ({why})" if why else name for name, why in self.new.items()]
        return "; ".join(
            [
                f"took {count} weights from {self.source}",
                *([f"new: {_listed(reasons)}"] if self.new else []),
                *([f"not used: {_listed(self.unused)}"] if self.unused else []),
                *([self.hint] if self.hint else []),
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all lists as plain values, ready for JSON."""
        return {
            "source": self.source,
            "taken": list(self.taken),
            "new": dict(self.new),
            "unused": list(self.unused),
        }


@dataclass(slots=True)
class _Comparison:
    """The weights of a model, compared with those of a source."""

    taken: dict[str, tuple[keras.Variable, np.ndarray]] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    # Shape in the source and shape in the model of each weight whose shapes differ.
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    used: set[int] = field(default_factory=set)


def take_weights(
    model: keras.Model, path: Path, task: Task, plugins: Plugins, option: str = "--init-from"
) -> InitialWeights:
    """Set those weights of a model that a run or a file has in the same shape.

    Layers are found by name. A name that Keras made, such as `conv2d_3`, depends on what was built
    before; such layers are found by their order among the layers of their kind. The weights of a
    layer are taken together: if one has another shape, all of them keep their initial values. The
    output layers keep their initial values if the classes of the run are others, or are in another
    order. Seeds and the variables of the optimizer are not taken.

    Args:
        model: A model of stock Keras layers.
        path: A run directory, a `.keras` file or a `.weights.h5` file.
        task: The task of the model.
        plugins: All plugins.
        option: Name of the command-line option, for error messages.

    Returns:
        Lists of what was taken and what was not.

    Raises:
        UsageError: The file is missing or has another format, or no kernel fits. A kernel here is a
            weight with two or more dimensions.
        RunError: The file is damaged.
    """
    source = open_source(path, plugins, option)
    layers = weighted_layers(model)
    found = _compare(model, layers, source, task)
    hint = _hint(model, source, found)
    kernels = [name for layer in layers for name in _kernels(layer)]
    if not any(name in found.taken for name in kernels or found.taken):
        known = f" (a run of the model {source.model})" if source.model else ""
        reason = hint or f"use a run of the model {model.name}, or leave out {option}"
        raise UsageError(
            f"{option}: nothing in {source.name}{known} fits the model {model.name}, because "
            f"no kernel has the same layer name and shape: {reason}"
        )
    for variable, array in found.taken.values():
        variable.assign(array)
    if source.task is None and _has_classes(model, found, task):
        classes = _listed(list(getattr(task, "classes", ())))
        order = f"{source.name} names no classes: its outputs count as {classes}, in this order"
        hint = "; ".join(filter(None, [hint, order]))
    unused = [
        f"{'/'.join(layer.path)}/{name}"
        for layer in source.layers
        for name, value in zip(layer.names, layer.values, strict=True)
        if id(value) not in found.used
    ]
    return InitialWeights(
        source=source.name, taken=list(found.taken), new=found.new, unused=unused, hint=hint
    )


def _compare(
    model: keras.Model, layers: Sequence[WeightedLayer], source: Source, task: Task
) -> _Comparison:
    found = _Comparison()
    outputs = {id(v) for layer in output_layers(model) for v in layer.weights}
    counterparts = _counterparts(layers, source.layers, _kinds(model))
    for layer in layers:
        names = [f"{'/'.join(layer.path)}/{name}" for name in layer.names]
        other = counterparts.get(layer.path)
        if other is None:
            found.new |= dict.fromkeys(names, "")
            continue
        values = _values_for(layer, other)
        found.used |= {id(value) for value in values if value is not None}
        is_output = id(layer.values[0]) in outputs
        reasons = list(map(_difference, layer.values, values))
        if is_output and not any(reasons):
            reasons = [_other_outputs(task, source.task)] * len(names)
        found.shapes += [
            (value.shape, tuple(variable.shape))
            for variable, value in zip(layer.values, values, strict=True)
            if value is not None and value.shape != tuple(variable.shape)
        ]
        for name, variable, value, why in zip(names, layer.values, values, reasons, strict=True):
            if value is None or any(reasons):
                found.new[name] = why
            else:
                found.taken[name] = (variable, value)
    return found


def _counterparts(
    layers: Sequence[WeightedLayer], others: Sequence[WeightedLayer], kinds: set[str]
) -> dict[tuple[str, ...], WeightedLayer]:
    """Find the layer of the source for each layer of the model, by path."""
    keys = _keys(layers, kinds)
    sources = dict(zip(_keys(others, kinds), others, strict=True))
    found = {
        layer.path: sources[key] for key, layer in zip(keys, layers, strict=True) if key in sources
    }
    # The same layer may be inside a model on one side only. Its own name then has to be unique.
    left = [layer for layer in layers if layer.path not in found]
    used = {id(layer) for layer in found.values()}
    spare = [layer for layer in others if id(layer) not in used]
    counts = Counter(layer.name for layer in left) | Counter(layer.name for layer in spare)
    by_name = {layer.name: layer for layer in spare}
    for layer in left:
        name = layer.name
        if name in by_name and counts[name] == 1 and not _is_automatic(name, kinds):
            found[layer.path] = by_name[name]
    return found


def _keys(layers: Sequence[WeightedLayer], kinds: set[str]) -> list[tuple[tuple[str, int], ...]]:
    """Return the paths of layers, with the order of a name that Keras made instead of its number.

    A name that the author of the model gave stays as it is, with the order 0.
    """
    numbers: dict[tuple[tuple[str, ...], str], set[int]] = defaultdict(set)
    for layer in layers:
        for depth, name in enumerate(layer.path):
            if _is_automatic(name, kinds):
                numbers[layer.path[:depth], stem(name)].add(_number(name))
    return [
        tuple(
            (stem(name), sorted(numbers[layer.path[:depth], stem(name)]).index(_number(name)))
            if _is_automatic(name, kinds)
            else (name, 0)
            for depth, name in enumerate(layer.path)
        )
        for layer in layers
    ]


def _kinds(model: keras.Model) -> set[str]:
    """Return the lower case class names of all layers, from which Keras makes names."""
    return {type(layer).__name__.lower() for layer in all_layers(model)}


def _is_automatic(name: str, kinds: set[str]) -> bool:
    return stem(name).replace("_", "") in kinds


def _number(name: str) -> int:
    return int(name[len(stem(name)) + 1 :] or 0)


def _values_for(layer: WeightedLayer, other: WeightedLayer) -> list[np.ndarray | None]:
    """Return the value in the source for each weight of a layer; `None` if it does not have it."""
    if layer.named and other.named:
        by_name = dict(zip(other.names, other.values, strict=True))
        return [by_name.get(name) for name in layer.names]
    # Indices mean the same weights only if there are equally many.
    if len(layer.values) != len(other.values):
        return [None] * len(layer.values)
    return list(other.values)


def _difference(variable: keras.Variable, value: np.ndarray | None) -> str:
    """Describe why a value does not fit a weight; "" if it fits or is missing."""
    if value is None:
        return ""
    shape = tuple(variable.shape)
    if value.shape != shape:
        return f"{_by(shape)} instead of {_by(value.shape)}"
    if "float" in str(variable.dtype) and not np.issubdtype(value.dtype, np.floating):
        return f"{variable.dtype} instead of {value.dtype}"
    return ""


def _other_outputs(task: Task, other: Task | None) -> str:
    """Describe why the outputs for another task mean something else; "" if that is not known."""
    if other is None:
        return ""
    if type(task) is not type(other):
        return "another task"
    same = getattr(task, "classes", None) == getattr(other, "classes", None)
    return "" if same else "other classes"


def _has_classes(model: keras.Model, found: _Comparison, task: Task) -> bool:
    outputs = {id(v) for layer in output_layers(model) for v in layer.weights}
    taken = any(id(variable) in outputs for variable, _ in found.taken.values())
    return taken and bool(getattr(task, "classes", ()))


def _hint(model: keras.Model, source: Source, found: _Comparison) -> str:
    """Return what the user can do if the images of the source are others; "" otherwise."""
    *size, channels = model.input_shape[1:]
    # Only the number of inputs of these kernels differs: axis -2.
    pairs = [
        (old, new)
        for old, new in found.shapes
        if len(old) >= 2 and (*old[:-2], old[-1]) == (*new[:-2], new[-1])
    ]
    if source.image_shape is None:
        first = [old[-2] for old, new in pairs if len(new) == 4 and new[-2] == channels]
        other_size, other_channels = size, first[0] if first else channels
    else:
        *other_size, other_channels = source.image_shape
    of_color = [
        (old, new)
        for old, new in pairs
        if (old[-2], new[-2]) == (other_channels, channels)
        or (len(old) == 2 and size == other_size)
    ]
    hints = []
    if channels != other_channels and of_color:
        option = {1: "grayscale", 3: "rgb"}.get(other_channels)
        hints.append(
            f"with --color {option}, as in {source.name}, the first layer fits"
            if option
            else f"{source.name} is for images of {other_channels} channels"
        )
    if size != other_size and len(pairs) > len(of_color):
        wanted = _by(other_size)
        hints.append(f"with --image-size {wanted}, as in {source.name}, more layers fit")
    return "; ".join(hints)


def _kernels(layer: WeightedLayer) -> Iterator[str]:
    for name, value in zip(layer.names, layer.values, strict=True):
        if len(value.shape) >= 2:
            yield f"{'/'.join(layer.path)}/{name}"


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
