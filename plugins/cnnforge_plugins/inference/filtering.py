"""Convolve pictures with one detector, with NumPy and Numba, and without Keras."""

from __future__ import annotations

import numpy as np

from cnnforge_kernels.authoring import conv2d_forward

# A tuple of NumPy scalars would compile the kernel again.
_NO_DILATION = (1, 1)


def convolve(images: np.ndarray, weights: np.ndarray, stride: int, same: bool) -> np.ndarray:
    """Convolve images with one detector.

    Args:
        images: (N, H, W, C) float32, C-contiguous.
        weights: (K, K, C, 1) float32, C-contiguous.
        stride: Step in pixels, along both axes.
        same: Whether the padding is SAME of TensorFlow; else it is VALID.

    Returns:
        (N, OH, OW, 1) float32.
    """
    count, height, width, _ = images.shape
    rows, columns = (_size(length, len(weights), stride, same) for length in (height, width))
    outputs = np.empty((count, rows, columns, 1), np.float32)
    no_bias = np.empty(0, np.float32)
    strides = (int(stride), int(stride))
    conv2d_forward(images, weights, no_bias, strides, same, _NO_DILATION, 1, False, outputs)
    return outputs


def _size(length: int, taps: int, stride: int, same: bool) -> int:
    covered = length if same else length - taps + 1
    return max(0, -(-covered // stride))
