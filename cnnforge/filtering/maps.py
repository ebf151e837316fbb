"""Compute the feature map of a picture, and convert it to a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cnnforge.errors import UsageError
from cnnforge.filtering.detectors import Detector

Padding = Literal["same", "valid"]

Convolve = Callable[[np.ndarray, np.ndarray, int, bool], np.ndarray]
"""A function `convolve(images, weights, stride, same)` of an engine: images (N, H, W, C) float32,
weights (K, K, C, 1) float32, to maps (N, OH, OW, 1) float32."""


@dataclass(frozen=True)
class FeatureMap:
    """The feature map of a picture.

    Attributes:
        values: (OH, OW, C) float64.
        pixels: (OH, OW, C) uint8: the values, rounded half to even, and clipped to 0..255.
    """

    values: np.ndarray
    pixels: np.ndarray

    @property
    def clipped(self) -> tuple[float, float]:
        """Fractions of the values that are below 0 and above 255 after rounding."""
        rounded = np.rint(self.values)
        return float((rounded < 0).mean()), float((rounded > 255).mean())


def feature_map(
    image: np.ndarray,
    detector: Detector,
    convolve: Convolve,
    *,
    stride: int = 1,
    padding: Padding = "same",
    relu: bool = False,
    pool: int = 1,
) -> FeatureMap:
    """Convolve a picture with a detector.

    As in a network, this is a cross-correlation: the detector is not flipped. With `"same"`, the
    picture is padded with zeros as TensorFlow does it. The map is first divided and shifted as the
    detector says, then passed through the ReLU, then pooled.

    Args:
        image: (H, W, C) uint8, C is 1 or 3.
        detector: The detector.
        convolve: Function of an engine.
        stride: Step between two positions of the detector, in pixels.
        padding: `"same"` or `"valid"`.
        relu: Whether negative values become 0.
        pool: Side of the squares whose max is kept; 1 keeps every value.

    Returns:
        The map.

    Raises:
        UsageError: The detector or a square does not fit into the picture, or the colors of the
            detector and the picture differ.
    """
    height, width, channels = image.shape
    size, matrix = detector.size, detector.matrix
    if padding == "valid" and min(height, width) < size:
        raise UsageError(
            f"the picture has {height}x{width} pixels, and the detector {size}x{size}: use a "
            "larger picture, or --padding same"
        )
    same = padding == "same"
    if matrix.ndim == 3:
        if matrix.shape[2] != channels:
            raise UsageError(
                f"the detector {detector.name} is for {_colors(matrix.shape[2])}, and the picture "
                f"has {_colors(channels)}: use another picture"
            )
        images, weights = image[np.newaxis], matrix[..., np.newaxis]
    else:
        # Every color is a picture by itself.
        images, weights = image.transpose(2, 0, 1)[..., np.newaxis], matrix[..., None, None]
    made = convolve(
        np.ascontiguousarray(images, np.float32),
        np.ascontiguousarray(weights, np.float32),
        stride,
        same,
    )
    values = made[..., 0].transpose(1, 2, 0).astype(np.float64)
    values = values / detector.divisor + detector.offset
    if relu:
        values = np.maximum(values, 0.0)
    if pool > 1:
        values = _max_pooled(values, pool)
    return FeatureMap(values, np.rint(values).clip(0, 255).astype(np.uint8))


def _max_pooled(values: np.ndarray, pool: int) -> np.ndarray:
    rows, columns = values.shape[0] // pool, values.shape[1] // pool
    if not (rows and columns):
        raise UsageError(
            f"the map has {values.shape[0]}x{values.shape[1]} values, which is smaller than a "
            f"square of {pool}x{pool}: give a smaller --pool"
        )
    squares = values[: rows * pool, : columns * pool]
    return squares.reshape(rows, pool, columns, pool, -1).max((1, 3))


def _colors(channels: int) -> str:
    return "gray pictures" if channels == 1 else "color pictures"
