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

# Input shapes (N, H, W, C) for a layer whose spec names no benchmarks.
_SHAPES = ((64, 28, 28, 8), (64, 14, 14, 16), (32, 32, 32, 32))
_BATCH_SIZE = 64


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

    Args:
        spec: Spec of the plugin layer.
        shape: The only shape to measure: (N, H, W, C), or (H, W, C) for 64 images. By default the
            shapes of the benchmarks that the spec names are measured.
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
            'it with: name one in LayerSpec(reference="module:Class")'
        )
    if shape is not None:
        shape = shape if len(shape) == 4 else (_BATCH_SIZE, *shape)
        return [_case(spec, usual_arguments(spec), shape)]
    benchmarks = [
        (case.arguments, case.speed_shape or case.input_shape, case.grad_inputs)
        for case in spec.load_benchmarks()
    ]
    if not benchmarks:
        arguments = usual_arguments(spec)
        benchmarks = [(arguments, inputs, True) for inputs in _SHAPES]
    return [
        _case(spec, arguments, (batch_size or inputs[0], *inputs[1:]), grad_inputs)
        for arguments, inputs, grad_inputs in benchmarks
    ]


def _case(
    spec: LayerSpec, arguments: Mapping[str, Any], shape: tuple[int, ...], grad_inputs: bool = True
) -> Case:
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
    workload = Workload(spec, kind, reference, config, shape, grad_inputs)
    return Case(_name(spec.name, workload), workload)


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


def _name(layer: str, workload: Workload) -> str:
    config: Any = workload.config
    text = f"{layer} {'x'.join(map(str, workload.shape))}"
    if "kernel_size" in config:
        text += f" {'x'.join(map(str, config['kernel_size']))}"
        if "filters" in config:
            text += f" {config['filters']}"
        text += f"/{config['strides'][0]}" if config["strides"][0] > 1 else ""
    elif "pool_size" in config:
        text += f" {'x'.join(map(str, config['pool_size']))}"
    return text
