"""Compute the output sizes and the padding of convolutions and pools.

Both Python code and code that Numba compiles call these functions.
"""

from __future__ import annotations


def output_size(size: int, window: int, stride: int, dilation: int, same: bool) -> int:
    """Return the number of outputs along one axis.

    With VALID padding the result is 0 if the window is longer than the inputs.

    Args:
        size: Number of inputs along the axis.
        window: Number of weights of the window along the axis.
        stride: Number of inputs by which the window moves from one output to the next.
        dilation: Distance between neighbouring weights of the window, in inputs.
        same: Whether the padding is SAME; otherwise it is VALID.
    """
    if same:
        return (size + stride - 1) // stride
    return max((size - (window - 1) * dilation - 1) // stride + 1, 0)


def padding_before(size: int, window: int, stride: int, dilation: int, same: bool) -> int:
    """Return the number of padding cells before the first input along one axis.

    If the total SAME padding is odd, the larger half follows the last input. The arguments are
    those of ``output_size``.
    """
    if not same:
        return 0
    outputs = (size + stride - 1) // stride
    return max((outputs - 1) * stride + (window - 1) * dilation + 1 - size, 0) // 2
