"""Make benchmark cases. A case is one plugin layer at one input shape, alone or from a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from cnnforge.conversion.workloads import Case, Workload, model_workloads, usual_arguments
from cnnforge.errors import CnnforgeError, UsageError, one_line
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry

# Input shapes (N, H, W, C) for a layer whose spec names neither benchmarks nor cases.
_SHAPES = ((64, 28, 28, 8), (64, 14, 14, 16), (32, 32, 32, 32))
_BATCH_SIZE = 64
# Number of images if a case has no `speed_shape`.
_CASE_BATCH_SIZE = 32


def parse_shape(text: str | None, batch_size: int | None) -> tuple[int, ...] | None:
    """Read the shape of a batch of images.

    Args:
        text: ``"NxHxWxC"``, or ``"HxWxC"`` to use ``batch_size`` as N.
        batch_size: N. If the text contains N too, the two must be equal.

    Returns:
        (N, H, W, C), or (H, W, C) if N is not given. `None` if ``text`` is `None`.

    Raises:
        UsageError: The text is not a shape, or it contains another N than ``batch_size``.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size is {batch_size}, expected 1 or more")
    if text is None:
        return None
    # Each number has at most twelve digits, because no larger array fits into memory.
    if not re.fullmatch(r"[1-9][0-9]{0,11}(x[1-9][0-9]{0,11}){2,3}", text, re.ASCII):
        raise UsageError(
            f"--shape is {text!r}, expected NxHxWxC or HxWxC (images, height, width, channels; "
            "each 1 or more), for instance 64x28x28x1"
        )
    shape = tuple(map(int, text.split("x")))
    if len(shape) == 3:
        return shape if batch_size is None else (batch_size, *shape)
    if batch_size not in (None, shape[0]):
        raise UsageError(
            f"--shape {text} is of {shape[0]} images and --batch-size is {batch_size}: "
            "leave out one of the two"
        )
    return shape


def layer_cases(
    spec: LayerSpec, shape: tuple[int, ...] | None = None, batch_size: int | None = None
) -> list[Case]:
    """Make the benchmark cases of one layer.

    These are the benchmarks that the spec names, or else its test cases with a `speed_shape`, each
    with its own arguments. If no test case has a `speed_shape`, all are measured, with 32 images of
    their `input_shape`. A layer without test cases has usual arguments and shapes.

    Args:
        spec: Spec of the plugin layer.
        shape: The only shape to measure: (N, H, W, C), or (H, W, C) for 64 images. Then the
            arguments are those of the first benchmark or test case.
        batch_size: Number of images in the default shapes; by default each benchmark's own number.

    Returns:
        One case for each shape.

    Raises:
        UsageError: The spec names no reference, or the layer cannot be built for a shape.
        PluginError: The layer cannot be imported.
    """
    if spec.load_reference() is None:
        raise UsageError(
            f"the layer {spec.qualified_name!r} names no reference, so there is nothing to compare "
            "it with: give --reference MODULE:CLASS, a Keras layer class that computes the same, "
            'or name it in LayerSpec(reference="module:Class")'
        )
    chosen = spec.load_benchmarks() or spec.load_cases()
    if shape is not None:
        shape = shape if len(shape) == 4 else (_BATCH_SIZE, *shape)
        arguments = chosen[0].arguments if chosen else usual_arguments(spec)
        return [_case(spec, arguments, shape, "--shape")]
    if not chosen:
        arguments = usual_arguments(spec)
        shapes = [(batch_size or inputs[0], *inputs[1:]) for inputs in _SHAPES]
        return [_case(spec, arguments, inputs, "a usual shape") for inputs in shapes]
    found = []
    for case in chosen:
        given = case.speed_shape or (_CASE_BATCH_SIZE, *case.input_shape[1:])
        origin = "input_shape" if case.speed_shape is None else "speed_shape"
        shape = (batch_size or given[0], *given[1:])
        found.append(_case(spec, case.arguments, shape, origin, case))
    return found


def _case(
    spec: LayerSpec,
    arguments: Mapping[str, Any],
    shape: tuple[int, ...],
    origin: str,
    case: Any = None,
) -> Case:
    """Make a benchmark case; `case` is the `LayerCase` that it comes from, if there is one."""
    kind, reference = spec.load(), spec.load_reference()
    try:
        config = kind(**{"name": spec.name, **arguments}).get_config()
        reference.from_config(config).compute_output_shape(shape)
    except Exception as error:
        raise UsageError(
            f"the layer {spec.qualified_name!r} cannot be made of {dict(arguments)} for inputs of "
            f"shape {'x'.join(map(str, shape))}: {one_line(error)}; choose another --shape, or "
            "measure it in a model with --model"
        ) from error
    grad_inputs, min_ratio, name = True, None, ""
    if case is not None:
        grad_inputs, min_ratio, name = case.grad_inputs, case.min_ratio, case.name
    workload = Workload(spec, kind, reference, config, shape, grad_inputs)
    return Case(
        _name(spec.name, workload, name),
        workload,
        min_ratio=min_ratio,
        arguments=arguments,
        origin=origin,
    )


def every_layer(
    specs: Iterable[LayerSpec], shape: tuple[int, ...] | None, batch_size: int | None
) -> tuple[list[Case], list[str]]:
    """Make the benchmark cases of all plugin layers that replace a stock layer.

    Args:
        specs: Specs of the layers.
        shape: The only shape to measure; see `layer_cases`.
        batch_size: Number of images; see `layer_cases`.

    Returns:
        Two lists: the cases, and a message for each layer whose cases cannot be made.
    """
    cases, notes = [], []
    for spec in specs:
        if spec.reference is not None:
            try:
                cases += layer_cases(spec, shape, batch_size)
            except CnnforgeError as error:
                notes.append(str(error))
    return cases, notes


def model_cases(model: keras.Model, layers: Registry[LayerSpec], batch_size: int) -> list[Case]:
    """Make the benchmark cases of a model that contains plugin layers.

    Layers with equal configuration and input shape share a case.

    Args:
        model: A model that `cnnforge.conversion.forge` has returned.
        layers: The plugin layers.
        batch_size: Number of images.

    Returns:
        The cases in the order of the layers in the model.
    """
    found: dict[str, tuple[Workload, list[str]]] = {}
    for name, workload in model_workloads(model, layers, batch_size):
        found.setdefault(workload.key, (workload, []))[1].append(name)
    return [
        Case(_name(names[0], workload), workload, tuple(dict.fromkeys(names)))
        for workload, names in found.values()
    ]


def _name(layer: str, workload: Workload, case: str = "") -> str:
    """Return the name of a benchmark case; `case` is the name of the author's case, or ""."""
    config: Any = workload.config
    shape = "x".join(map(str, workload.shape))
    text = f"{layer} {shape}"
    if case and re.search("[a-z]{2}", case):
        return f"{layer}.{case} {shape}"
    if "kernel_size" in config:
        text += f" {_size(config['kernel_size'])}"
        if "filters" in config:
            text += f" {config['filters']}"
        stride = _size(config.get("strides", 1)).split("x")[0]
        text += f"/{stride}" if stride != "1" else ""
    elif "pool_size" in config:
        text += f" {_size(config['pool_size'])}"
    return text


def _size(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
