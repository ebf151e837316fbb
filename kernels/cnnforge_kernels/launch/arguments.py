"""Check the arguments of the public functions, and convert them for the kernels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels import arrays
from cnnforge_kernels.geometry import output_size

Array = NDArray[np.float32]
Pair = tuple[int, int]
Shape = tuple[int, ...]
Padding = Literal["valid", "same"]
Precision = Literal["float32", "tf32", "bfloat16"]


def _tuple(value: Any) -> tuple:
    """Return the items of a sequence as a tuple; return ``()`` if ``value`` is not a sequence."""
    try:
        return tuple(value)
    except TypeError:
        return ()


def pair(name: str, value: int | tuple[int, int]) -> Pair:
    """Check that ``value`` is one or two positive integers, and return a pair of integers."""
    two = (value, value) if isinstance(value, (int, np.integer)) else _tuple(value)
    if len(two) != 2 or any(not isinstance(v, (int, np.integer)) or v < 1 for v in two):
        raise ValueError(f"`{name}` must be one or two positive integers. Received: {value!r}")
    return int(two[0]), int(two[1])


def shape_of_four(name: str, value: Any) -> tuple[int, int, int, int]:
    """Check that ``value`` is a shape of rank 4, and return it as a tuple of integers."""
    four = _tuple(value)
    if len(four) != 4 or any(not isinstance(v, (int, np.integer)) or v < 0 for v in four):
        raise ValueError(f"`{name}` must be a shape: four integers, 0 or more. Received: {value!r}")
    first, second, third, fourth = (int(v) for v in four)
    return first, second, third, fourth


def is_same(padding: str) -> bool:
    """Check that ``padding`` is "valid" or "same"; return whether it is "same"."""
    if padding not in ("valid", "same"):
        raise ValueError(f'`padding` must be "valid" or "same". Received: {padding!r}')
    return padding == "same"


def is_relu(activation: str | None) -> bool:
    """Check that ``activation`` is "relu" or ``None``; return whether it is "relu"."""
    if activation not in (None, "relu"):
        raise ValueError(f'`activation` must be "relu" or None. Received: {activation!r}')
    return activation == "relu"


def convolution_options(
    strides: Any,
    padding: str,
    dilation_rate: Any,
    groups: int,
    inputs: Shape,
    weights: Shape,
) -> tuple[tuple[Pair, bool, Pair, int], Shape]:
    """Check the options of a convolution, and that they fit the shapes of inputs and weights.

    Returns:
        Two values: the tuple (strides, same, dilation_rate, groups), and the shape of the outputs.
    """
    steps, dilation = pair("strides", strides), pair("dilation_rate", dilation_rate)
    if max(steps) > 1 and max(dilation) > 1:
        raise ValueError(
            "`strides > 1` not supported in conjunction with `dilation_rate > 1`. "
            f"Received: strides={steps} and dilation_rate={dilation}"
        )
    channels, filters = inputs[3], weights[3]
    fits = isinstance(groups, (int, np.integer)) and groups > 0
    if not fits or channels % groups or filters % groups or weights[2] * groups != channels:
        raise ValueError(
            f"`groups` must divide the {channels} channels of the inputs and the {filters} "
            "filters, and `weights` must have channels / groups channels. "
            f"Received: groups={groups!r}, weights {weights}"
        )
    if 0 in weights[:2]:
        raise ValueError(f"The window must not be empty. Received: weights {weights}")
    same = is_same(padding)
    shape = (*output_shape(inputs, weights, steps, dilation, same), filters)
    return (steps, same, dilation, int(groups)), shape


def output_shape(
    inputs: Shape, window: Shape, steps: Pair, dilation: Pair, same: bool
) -> tuple[int, int, int]:
    """Return three numbers: the number of images, of output rows and of output columns."""
    rows, columns = (
        output_size(inputs[1 + a], window[a], steps[a], dilation[a], same) for a in (0, 1)
    )
    return inputs[0], rows, columns


def bias_array(bias: Any, filters: int, stream: Any) -> Any:
    """Check a bias of shape (filters,) and return it; return an empty array if it is ``None``."""
    offsets = arrays.optional("bias", bias, 1, stream)
    if offsets.size not in (0, filters):
        raise ValueError(f"`bias` must have {filters} values. Received: {offsets.size}")
    return offsets


def relu_mask(grads: Any, outputs: Any, shape: Shape, stream: Any) -> Any:
    """Check and return ``outputs``, the outputs of the forward pass.

    The kernel of a gradient reads them as the mask of a ReLU. If ``outputs`` is ``None``, there is
    no ReLU, and the kernel does not read the mask. But it needs an array of the same shape, so
    return ``grads``.
    """
    check_shape("grad_outputs", grads, shape)
    mask = grads if outputs is None else arrays.array("outputs", outputs, 4, stream)
    check_shape("outputs", mask, shape)
    return mask


def argmax_array(argmax: Any, grads: Any, shape: Shape, pool: Pair, relu: bool, stream: Any) -> Any:
    """Check the argmax of a pool, and return it as a C-contiguous array.

    Args:
        argmax: Row-major index of the maximum in each window.
        grads: Gradient of the outputs.
        shape: Shape that ``argmax`` and ``grads`` must have.
        pool: Size of the window of the pool.
        relu: Whether a ReLU precedes the pool. If so, an argmax of 255 means that the maximum is
            not positive.
        stream: Stream for arrays on a device.

    Raises:
        ValueError: An array does not have the shape or dtype, or a value is not the index of a
            cell. Values on a device are not checked.
    """
    found, cells = arrays.argmax_array(argmax, stream), pool[0] * pool[1]
    dtype = np.dtype(np.uint8 if cells <= 256 else np.int32)
    if grads.shape != shape or found.shape != shape or found.dtype != dtype:
        raise ValueError(
            f"`grad_outputs` and `argmax` ({dtype}) must have shape {shape}. "
            f"Received: {grads.shape} and {found.dtype} {found.shape}"
        )
    if isinstance(found, np.ndarray):
        # The valid values are 255 and 0 to cells - 1. Adding 1 turns 255 into 0, because the values
        # are bytes. So the valid values become the single range 0 to cells.
        numbers = found + np.uint8(1) if relu else found
        lowest, highest = numbers.min(initial=0), numbers.max(initial=0)
        if lowest < 0 or highest >= cells + relu:
            wrong = lowest if lowest < 0 else highest - relu
            raise ValueError(
                f"`argmax` must be cells of a window of {pool[0]} x {pool[1]}, from 0 to "
                f"{cells - 1}, as the forward pass returned them. Received: {wrong}"
            )
    return found


def check_shape(name: str, array: NDArray, shape: tuple[int, ...]) -> None:
    """Check that an array has the shape ``shape``."""
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}. Received: {array.shape}")


def host_array(
    function: str, name: str, value: Any, dtype: Any, shape: tuple[int, ...] | None = None
) -> Any:
    """Check an argument that must be a NumPy array, and return it as a C-contiguous array.

    Args:
        function: Name of the same op in ``torch.nn.functional``; the error message recommends this
            function for arrays on a device.
        name: Name of the argument.
        value: Value of the argument.
        dtype: Dtype that the array must have.
        shape: Shape that the array must have; ``None`` allows any shape.

    Raises:
        ValueError: The value is not such an array.
    """
    if arrays.is_device_array(value):
        raise ValueError(
            f"`{name}` must be a NumPy array: {function} has no kernel for CUDA devices. Use the "
            f"framework's own there, such as torch.nn.functional.{function}."
        )
    fits = isinstance(value, np.ndarray) and value.dtype == dtype
    if not fits or shape not in (None, value.shape):
        is_array = isinstance(value, np.ndarray)
        got = f"{value.dtype} {value.shape}" if is_array else type(value).__name__
        of_shape = "" if shape is None else f" of shape {shape}"
        raise ValueError(
            f"`{name}` must be a {np.dtype(dtype)} NumPy array{of_shape}. Received: {got}"
        )
    # `ascontiguousarray` turns an array of rank 0 into an array of rank 1. `reshape` undoes that.
    return np.ascontiguousarray(value).reshape(value.shape)


def host_out(function: str, given: Any, shape: tuple[int, ...], inputs: tuple[Any, ...]) -> Any:
    """Check and return ``given``, the float32 NumPy array to write to.

    If ``given`` is ``None``, return a new array.
    """
    if given is not None:
        host_array(function, "out", given, np.float32)
    return arrays.out("out", given, shape, inputs)
