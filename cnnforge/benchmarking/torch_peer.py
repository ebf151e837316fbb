"""Make functions that compute a layer with PyTorch, so that PyTorch can be timed too.

The spec of the layer names a function that builds its counterpart in PyTorch. PyTorch is optional.
It is imported after the framework that Keras runs on, and uses the same number of threads as the
kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import keras
import numba
import numpy as np

from cnnforge.conversion.workloads import Repeatable, Workload
from cnnforge.errors import PluginError, one_line

LAYOUTS = ("contiguous", "channels_last")
_Peer = tuple[Callable[..., Any], list[np.ndarray]]


def torch_missing() -> str:
    """Return the reason why PyTorch cannot be measured; "" if it can be measured."""
    if keras.backend.backend() == "torch":
        return "Keras itself runs on it"
    return "" if find_spec("torch") else "it is not installed (pip install torch)"


def torch_functions(workload: Workload, seed: int = 0) -> dict[str, dict[str, Repeatable]]:
    """Prepare functions that compute a layer's passes with PyTorch.

    Args:
        workload: A float32 layer and the shape of its inputs, channels last.
        seed: Random seed of the inputs.

    Returns:
        A dictionary by memory layout (`LAYOUTS`) of functions by name. ``forward`` computes the
        outputs in inference mode. ``full`` computes the outputs and the gradients of the weights,
        and the gradient of the inputs if training needs it. ``backward`` computes the gradients
        alone, of outputs that it computes once; it is missing if there are no gradients. Inputs
        without height and width have only the first layout. The result is empty if PyTorch has no
        counterpart of the layer.

    Raises:
        PluginError: The function of the layer's spec cannot be imported, or it fails.
    """
    layer = workload.build(workload.reference)
    peer = _peer(workload, layer)
    if peer is None:
        return {}
    function, arrays = peer
    torch = import_module("torch")
    torch.set_num_threads(numba.get_num_threads())
    random = np.random.default_rng(seed)
    values = random.standard_normal(workload.shape, np.float32)
    upstream = random.standard_normal(layer.compute_output_shape(workload.shape), np.float32)
    found = {}
    for layout in LAYOUTS if values.ndim == 4 else LAYOUTS[:1]:

        def tensor(values: np.ndarray, name: str = layout) -> Any:
            known = torch.from_numpy(np.array(values))
            last = name == "channels_last" and known.ndim == 4
            form = torch.channels_last if last else torch.contiguous_format
            return known.contiguous(memory_format=form)

        weights = [tensor(array).requires_grad_() for array in arrays]
        inputs, gradient = tensor(_channels_first(values)), tensor(_channels_first(upstream))
        found[layout] = _timed(torch, function, weights, inputs, gradient, workload.grad_inputs)
    return found


def _channels_first(values: np.ndarray) -> np.ndarray:
    return np.moveaxis(values, -1, 1) if values.ndim == 4 else values


def _peer(workload: Workload, layer: Any) -> _Peer | None:
    build = workload.spec.load_torch()
    if build is None or layer.compute_dtype != "float32":
        return None
    try:
        return build(layer, workload.shape)
    except Exception as error:
        raise PluginError(
            f"PyTorch's counterpart of {workload.spec.qualified_name!r} cannot be built by "
            f"{workload.spec.torch}: {one_line(error)}"
        ) from error


def _timed(
    torch: Any,
    function: Callable[..., Any],
    weights: list[Any],
    inputs: Any,
    upstream: Any,
    grad_inputs: bool,
) -> dict[str, Repeatable]:
    differentiable = inputs.detach().requires_grad_() if grad_inputs else inputs
    sources = [*([differentiable] if grad_inputs else []), *weights]

    def forward(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                function(inputs, *weights)

    def full(count: int) -> None:
        for _ in range(count):
            outputs = function(differentiable, *weights)
            if sources:
                torch.autograd.grad(outputs, sources, upstream)

    def backward(count: int) -> None:
        outputs = function(differentiable, *weights)
        for _ in range(count):
            torch.autograd.grad(outputs, sources, upstream, retain_graph=True)

    functions = {"forward": Repeatable(forward), "full": Repeatable(full)}
    return functions | ({"backward": Repeatable(backward)} if sources else {})
