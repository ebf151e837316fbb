"""The public functions of dropout and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels import arrays
from cnnforge_kernels.cpu import dropout as cpu
from cnnforge_kernels.launch.arguments import Array, host_array, host_out


def _rate(value: Any) -> float:
    if not isinstance(value, (int, float, np.integer, np.floating)) or not 0 <= value < 1:
        raise ValueError(f"`rate` must be a number from 0 to below 1. Received: {value!r}")
    return float(value)


def dropout(
    inputs: Array,
    key: NDArray[np.uint64],
    counter: NDArray[np.uint64],
    rate: float,
    *,
    out: Array | None = None,
) -> tuple[Array, NDArray[np.uint8]]:
    """Set random elements to zero, and divide the others by ``1 - rate``.

    An element becomes zero if its random number, in [0, 1), is below ``rate``. The random numbers
    are those of ``tf.random.stateless_uniform`` in float32. Their generator is Philox4x32-10:
    J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011. The same key and counter
    always give the same mask. ``tf.raw_ops.StatelessRandomGetKeyCounter`` computes a key and a
    counter from a seed.

    Args:
        inputs: array of any shape, float32.
        key: (1,) uint64.
        counter: (2,) uint64, Philox's counter for the first four elements, with the low half first.
        rate: probability that an element becomes zero, in [0, 1).
        out: buffer to write the outputs to, float32, of the shape of the inputs.

    Returns:
        The outputs, float32, and the mask, uint8, both of the shape of the inputs. The mask is 1 if
        an element is kept, else 0. A dropped element becomes zero even if it is NaN.

    Raises:
        ValueError: a dtype, a shape or the rate is wrong, or an array is on a device.
    """
    inputs = host_array("dropout", "inputs", inputs, np.float32)
    key = host_array("dropout", "key", key, np.uint64, (1,))
    counter = host_array("dropout", "counter", counter, np.uint64, (2,))
    rate = _rate(rate)
    outputs = host_out("dropout", out, inputs.shape, (inputs,))
    mask = np.empty(inputs.shape, np.uint8)
    flat = inputs.reshape(-1), key, counter, rate, outputs.reshape(-1), mask.reshape(-1)
    arrays.call(cpu.dropout_forward, *flat)
    return outputs, mask


def dropout_grad(
    grad_outputs: Array, mask: NDArray[np.uint8], rate: float, *, out: Array | None = None
) -> Array:
    """Return the gradient of the inputs of ``dropout``: a float32 array of the mask's shape.

    ``mask`` is the one that ``dropout`` returned.
    """
    grads = host_array("dropout", "grad_outputs", grad_outputs, np.float32)
    mask = host_array("dropout", "mask", mask, np.uint8, grads.shape)
    rate = _rate(rate)
    result = host_out("dropout", out, grads.shape, (grads, mask))
    flat = mask.reshape(-1), rate, grads.reshape(-1), result.reshape(-1)
    arrays.call(cpu.dropout_grad_inputs, *flat)
    return result
