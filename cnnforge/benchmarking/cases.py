"""What is measured: layers at built-in or given shapes, or the layers of a model at its shapes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import keras

from cnnforge.conversion.workloads import Case, Workload, model_workloads
from cnnforge.errors import CnnforgeError, UsageError, one_line
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry

# (N, H, W, C), window, filters, whether it is a first layer: those of small networks on digits
# and on small colour images, and one with the channels of a residual network.
_CONVOLUTIONS = (
    ((64, 28, 28, 1), 5, 8, True),
    ((64, 14, 14, 8), 3, 16, False),
    ((32, 32, 32, 16), 3, 32, False),
    ((16, 32, 32, 64), 3, 64, False),
)
_MAPS = ((64, 28, 28, 8), (64, 14, 14, 16), (32, 32, 32, 32))
_WINDOW, _FILTERS = 3, 8


def parse_shape(text: str | None, batch_size: int | None) -> tuple[int, ...] | None:
    """Read the shape of a batch of images.

    Args:
        text: ``"NxHxWxC"``; ``"HxWxC"`` takes N from ``batch_size``.
        batch_size: N, where the text leaves it open or says the same.

    Returns:
        (N, H, W, C); without N, (H, W, C), where nobody says it; `None` without a text.

    Raises:
        UsageError: The text is no shape, or the two contradict each other.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size is {batch_size}, expected 1 or more")
    if text is None:
        return None
    # Twelve digits are more than any memory holds.
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
    """Make the cases of one layer.

    Args:
        spec: The plugin layer's.
        shape: The only shape to measure; the built-in ones without it.
        batch_size: Instead of the number of images of a built-in shape.

    Returns:
        One for each shape.

    Raises:
        UsageError: The layer names no reference, or cannot be built of the usual arguments.
        PluginError: It cannot be imported.
    """
    reference = spec.load_reference()
    if reference is None:
        raise UsageError(
            f"the layer {spec.qualified_name!r} names no reference, so there is nothing to compare "
            'it with: a LayerSpec with reference="module:Class" does'
        )
    kind = spec.load()
    taken = _arguments(kind)
    convolution = "kernel_size" in taken
    if shape is not None:
        chosen = [(shape if len(shape) == 4 else (64, *shape), _WINDOW, _FILTERS, False)]
    elif convolution:
        chosen = list(_CONVOLUTIONS)
        if "filters" not in taken:  # One map for each channel: no use for a single one.
            chosen = chosen[1:]
    else:
        chosen = [(it, _WINDOW, _FILTERS, False) for it in _MAPS]
    cases = []
    for size, window, filters, first in chosen:
        if shape is None and batch_size is not None:
            size = (batch_size, *size[1:])
        usual = {
            "filters": filters,
            "units": filters,
            "kernel_size": window,
            "pool_size": 2,
            "rate": 0.5,
            "padding": "same" if convolution else "valid",
            "activation": "relu",
            "name": spec.name,
        }
        given = {name: value for name, value in usual.items() if name in taken}
        try:
            config = kind(**given).get_config()
            reference.from_config(config).compute_output_shape(size)
        except Exception as error:
            raise UsageError(
                f"the layer {spec.qualified_name!r} cannot be made of {given} for inputs of shape "
                f"{'x'.join(map(str, size))}: {one_line(error)}; choose another --shape, or "
                "measure it in a model with --model"
            ) from error
        workload = Workload(spec, kind, reference, config, size, grad_inputs=not first)
        cases.append(Case(_name(spec.name, workload), workload))
    return cases


def every_layer(
    specs: Iterable[LayerSpec], shape: tuple[int, ...] | None, batch_size: int | None
) -> tuple[list[Case], list[str]]:
    """Make the cases of all layers that stand for a stock layer.

    Args:
        specs: The layers.
        shape: As for `layer_cases`.
        batch_size: As for `layer_cases`.

    Returns:
        The cases, and why a layer has none.
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
    """Make the cases of a forged model: one for each that takes a time of its own.

    Args:
        model: As `cnnforge.conversion.forge` returns it.
        layers: The plugin layers.
        batch_size: How many images.

    Returns:
        In the order of the model.
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


def _arguments(kind: type) -> set[str]:
    """The names of a constructor's arguments, those that it passes on included."""
    names: set[str] = set()
    for it in kind.__mro__:
        if "__init__" in vars(it):
            parameters = inspect.signature(it.__init__).parameters.values()
            names |= {p.name for p in parameters}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names
