"""Output sizes and padding, in plain integer arithmetic.

Python and the kernels share these functions, so that there is one rule.
"""

from __future__ import annotations


def output_size(size: int, window: int, stride: int, dilation: int, same: bool) -> int:
    """Return the number of outputs along one axis: 0 if the window does not fit (VALID).

    Args:
        size: length of the input along the axis.
        window: taps of the window along the axis.
        stride: distance between neighbouring outputs, in inputs.
        dilation: distance between neighbouring taps, in inputs.
        same: SAME padding; else VALID.
    """
    if same:
        return (size + stride - 1) // stride
    return max((size - (window - 1) * dilation - 1) // stride + 1, 0)


def padding_before(size: int, window: int, stride: int, dilation: int, same: bool) -> int:
    """Return the padding at the top or left; an odd rest of SAME goes to the bottom or right."""
    if not same:
        return 0
    outputs = (size + stride - 1) // stride
    return max((outputs - 1) * stride + (window - 1) * dilation + 1 - size, 0) // 2
