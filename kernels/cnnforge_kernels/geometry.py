"""Output sizes and padding, in plain integer arithmetic.

Both Python code and compiled code call these functions.
"""

from __future__ import annotations


def output_size(size: int, window: int, stride: int, dilation: int, same: bool) -> int:
    """Return the number of outputs along one axis; it is 0 if a VALID window does not fit.

    Args:
        size: length of the input along the axis.
        window: number of taps of the window along the axis.
        stride: distance between neighbouring outputs, in inputs.
        dilation: distance between neighbouring taps, in inputs.
        same: whether the padding is SAME; else it is VALID.
    """
    if same:
        return (size + stride - 1) // stride
    return max((size - (window - 1) * dilation - 1) // stride + 1, 0)


def padding_before(size: int, window: int, stride: int, dilation: int, same: bool) -> int:
    """Return the padding at the top or left; if SAME is odd, the rest is at the bottom or right."""
    if not same:
        return 0
    outputs = (size + stride - 1) // stride
    return max((outputs - 1) * stride + (window - 1) * dilation + 1 - size, 0) // 2
