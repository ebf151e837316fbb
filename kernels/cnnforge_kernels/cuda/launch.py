"""The ops on a device, with the names, parameters and semantics of ``cnnforge_kernels.cpu``.

Each takes arrays that lie on one device (anything with ``__cuda_array_interface__``, DLPack or
``data_ptr()``), writes to those it is given, and ``stream``: the address of a CUDA stream, an
object that has one, or ``None`` for the default stream. It launches there and waits for nothing.
Kernels, grids and arguments are found once for each shape.

Arrays are C-contiguous and of the shapes that belong together: ``cnnforge_kernels.conv2d`` and the
other public functions see to that. Checked here is what would crash a device: their dtypes, their
device, and whether what is written to may be.

Raises, all of them: ``ValueError`` for arrays that cannot be used, and ``CudaUnavailableError``
where there is no device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.cuda import conv2d as _conv2d
from cnnforge_kernels.cuda import conv_block as _conv_block
from cnnforge_kernels.cuda import pooling as _pooling
from cnnforge_kernels.cuda.arrays import View, view
from cnnforge_kernels.cuda.conv2d import Convolution
from cnnforge_kernels.cuda.pooling import Pooling
from cnnforge_kernels.cuda.runtime import driver, run, stream_handle

Pair = tuple[int, int]
_BYTES = ("winners",)


def views(**arrays: Any) -> dict[str, View]:
    """Where arrays lie, all on one device; those that are ``None`` are left out.

    Raises:
        ValueError: not an array, another dtype than float32 (uint8 or int32 for ``winners``), not
            contiguous, or on several devices.
    """
    found = {}
    for name, array in arrays.items():
        if array is None:
            continue
        where = view(name, array, lambda value: driver().locate(value))
        kinds = (np.uint8, np.int32) if name in _BYTES else (np.float32,)
        if where.dtype.type not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"`{name}` must be {expected} on a device. Received: {where.dtype} {where.shape}"
            )
        if found and where.device != next(iter(found.values())).device:
            first = next(iter(found))
            raise ValueError(
                f"All arrays must be on one device. Received: `{first}` on device "
                f"{found[first].device} and `{name}` on device {where.device}. Copy one of them."
            )
        found[name] = where
    return found


def _aligned(arrays: dict[str, View]) -> bool:
    return not any(
        array.pointer % (4 if array.dtype.itemsize == 1 else 16) for array in arrays.values()
    )


def run_on(plan: Any, arrays: dict[str, View], written: tuple[str, ...], stream: Any) -> None:
    """Run a plan that writes some of the arrays.

    Raises:
        ValueError: one of those is read-only.
    """
    for name in written:
        if not arrays[name].writeable:
            raise ValueError(f"`{name}` must be writeable. Received: a read-only array.")
    run(plan, arrays, stream_handle(stream))


def convolution(
    arrays: dict[str, View],
    inputs: Any,
    weights: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
) -> Convolution:
    """The convolution of arrays; of ``inputs`` and ``weights`` only the shapes are used."""
    shapes = tuple(inputs.shape), tuple(weights.shape)
    return Convolution(
        *shapes, tuple(strides), same, tuple(dilation_rate), groups, _aligned(arrays)
    )


def conv2d_forward(
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    relu: bool,
    outputs: Any,
    stream: Any = None,
) -> None:
    """Convolution, bias and ReLU: (N, H, W, C), (KH, KW, C / groups, F), (F,) -> (N, OH, OW, F).

    ``bias`` is ``None`` or empty for none.
    """
    arrays = views(inputs=inputs, weights=weights, bias=bias, outputs=outputs)
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    has_bias = "bias" in arrays and arrays["bias"].size > 0
    run_on(_conv2d.forward(c, has_bias, relu), arrays, ("outputs",), stream)


def conv2d_grad_inputs(
    inputs: Any,
    weights: Any,
    outputs: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    relu: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """The gradient of ``inputs``, of which only the shape is used; ``outputs`` with ``relu``."""
    arrays = views(
        weights=weights,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_inputs=grad_inputs,
    )
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    run_on(_conv2d.grad_inputs(c, relu), arrays, ("grad_inputs",), stream)


def conv2d_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    outputs: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    relu: bool,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
    stream: Any = None,
) -> None:
    """The gradients of ``weights`` and ``bias``, of which only the shapes are used.

    ``grad_bias`` may be empty; it is computed all the same, to memory of its own.
    """
    arrays = views(
        inputs=inputs,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    run_with_bias(_conv2d.grad_weights(c, relu), arrays, c.weights[3], stream)


def run_with_bias(plan: Any, arrays: dict[str, View], filters: int, stream: Any) -> None:
    """Run a plan that writes ``grad_weights`` and ``grad_bias``, which may be empty."""
    if arrays["grad_bias"].size == filters:
        run_on(plan, arrays, ("grad_weights", "grad_bias"), stream)
        return
    device, handle = arrays["grad_weights"].device, stream_handle(stream)
    memory = driver().allocate(4 * filters, device, handle)
    spare = View(memory.pointer, (filters,), np.dtype(np.float32), device)
    try:
        run_on(plan, arrays | {"grad_bias": spare}, ("grad_weights",), stream)
    finally:
        memory.free()


def _depthwise(weights: Any) -> View:
    """``weights`` (KH, KW, C, M) as those of a convolution with C groups, (KH, KW, 1, C * M)."""
    kh, kw, channels, multiplier = weights.shape
    return View(0, (kh, kw, 1, channels * multiplier), np.dtype(np.float32), 0)


def depthwise_conv2d_forward(
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    relu: bool,
    outputs: Any,
    stream: Any = None,
) -> None:
    """Depthwise convolution: (N, H, W, C), (KH, KW, C, M), (C * M,) -> (N, OH, OW, C * M)."""
    arrays = views(inputs=inputs, weights=weights, bias=bias, outputs=outputs)
    groups = inputs.shape[3]
    c = convolution(arrays, inputs, _depthwise(weights), strides, same, dilation_rate, groups)
    has_bias = "bias" in arrays and arrays["bias"].size > 0
    run_on(_conv2d.forward(c, has_bias, relu), arrays, ("outputs",), stream)


def depthwise_conv2d_grad_inputs(
    inputs: Any,
    weights: Any,
    outputs: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    relu: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """The gradient of ``inputs``, of which only the shape is used; ``outputs`` with ``relu``."""
    arrays = views(
        weights=weights,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_inputs=grad_inputs,
    )
    groups = inputs.shape[3]
    c = convolution(arrays, inputs, _depthwise(weights), strides, same, dilation_rate, groups)
    run_on(_conv2d.grad_inputs(c, relu), arrays, ("grad_inputs",), stream)


def depthwise_conv2d_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    outputs: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    relu: bool,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
    stream: Any = None,
) -> None:
    """The gradients of ``weights`` and ``bias``, of which only the shapes are used."""
    arrays = views(
        inputs=inputs,
        outputs=outputs if relu else None,
        grad_outputs=grad_outputs,
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    groups = inputs.shape[3]
    c = convolution(arrays, inputs, _depthwise(weights), strides, same, dilation_rate, groups)
    run_with_bias(_conv2d.grad_weights(c, relu), arrays, c.weights[3], stream)


def conv_block_forward(
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    pool_size: Pair,
    outputs: Any,
    winners: Any,
    stream: Any = None,
) -> None:
    """Convolution, bias, ReLU and max pooling; ``winners`` uint8, 255 for no gradient."""
    arrays = views(inputs=inputs, weights=weights, bias=bias, outputs=outputs, winners=winners)
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    has_bias = "bias" in arrays and arrays["bias"].size > 0
    plan = _conv_block.forward(c, tuple(pool_size), has_bias)
    run_on(plan, arrays, ("outputs", "winners"), stream)


def conv_block_grad_inputs(
    inputs: Any,
    weights: Any,
    winners: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    pool_size: Pair,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """The gradient of ``inputs``, of which only the shape is used, from the winners."""
    arrays = views(
        weights=weights, winners=winners, grad_outputs=grad_outputs, grad_inputs=grad_inputs
    )
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    run_on(_conv_block.grad_inputs(c, tuple(pool_size)), arrays, ("grad_inputs",), stream)


def conv_block_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    winners: Any,
    strides: Pair,
    same: bool,
    dilation_rate: Pair,
    groups: int,
    pool_size: Pair,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
    stream: Any = None,
) -> None:
    """The gradients of ``weights`` and ``bias``, of which only the shapes are used."""
    arrays = views(
        inputs=inputs,
        winners=winners,
        grad_outputs=grad_outputs,
        grad_weights=grad_weights,
        grad_bias=grad_bias,
    )
    c = convolution(arrays, inputs, weights, strides, same, dilation_rate, groups)
    run_with_bias(_conv_block.grad_weights(c, tuple(pool_size)), arrays, c.weights[3], stream)


def _pool(
    arrays: dict[str, View], inputs: Any, pool_size: Pair, strides: Pair, same: bool
) -> Pooling:
    shape = tuple(inputs.shape)
    return Pooling(shape, tuple(pool_size), tuple(strides), same, _aligned(arrays))


def max_pool2d_forward(
    inputs: Any,
    pool_size: Pair,
    strides: Pair,
    same: bool,
    outputs: Any,
    winners: Any,
    stream: Any = None,
) -> None:
    """The maximum of each window and its cell; ``winners`` uint8, int32 beyond 256 cells."""
    arrays = views(inputs=inputs, outputs=outputs, winners=winners)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(_pooling.forward(p, True), arrays, ("outputs", "winners"), stream)


def max_pool2d_grad_inputs(
    inputs: Any,
    winners: Any,
    pool_size: Pair,
    strides: Pair,
    same: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """The gradient of ``inputs``, of which only the shape is used, from the winners."""
    arrays = views(winners=winners, grad_outputs=grad_outputs, grad_inputs=grad_inputs)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(_pooling.backward(p, True), arrays, ("grad_inputs",), stream)


def average_pool2d_forward(
    inputs: Any, pool_size: Pair, strides: Pair, same: bool, outputs: Any, stream: Any = None
) -> None:
    """The mean of the real cells of each window."""
    arrays = views(inputs=inputs, outputs=outputs)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(_pooling.forward(p, False), arrays, ("outputs",), stream)


def average_pool2d_grad_inputs(
    inputs: Any,
    pool_size: Pair,
    strides: Pair,
    same: bool,
    grad_outputs: Any,
    grad_inputs: Any,
    stream: Any = None,
) -> None:
    """The gradient of ``inputs``, of which only the shape is used."""
    arrays = views(grad_outputs=grad_outputs, grad_inputs=grad_inputs)
    p = _pool(arrays, inputs, pool_size, strides, same)
    run_on(_pooling.backward(p, False), arrays, ("grad_inputs",), stream)


def global_average_pool2d_forward(inputs: Any, outputs: Any, stream: Any = None) -> None:
    """The mean of each map: (N, H, W, C) -> (N, C)."""
    arrays = views(inputs=inputs, outputs=outputs)
    run_on(_pooling.global_forward(tuple(inputs.shape)), arrays, ("outputs",), stream)


def global_average_pool2d_grad_inputs(
    inputs: Any, grad_outputs: Any, grad_inputs: Any, stream: Any = None
) -> None:
    """The gradient of ``inputs``, of which only the shape is used."""
    arrays = views(grad_outputs=grad_outputs, grad_inputs=grad_inputs)
    plan = _pooling.global_backward(tuple(inputs.shape), _aligned(arrays))
    run_on(plan, arrays, ("grad_inputs",), stream)
