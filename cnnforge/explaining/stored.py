"""Store maps of a large network in a page, as pictures of 8 bits."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from cnnforge.explaining.network import Network

MAX_CHANNELS = 16
"""Max number of maps of a layer in a page."""
MAX_SIDE = 112
"""Max height and width of a map in a page."""


def chosen_convolutions(network: Network, most: int = 8) -> list[int]:
    """Choose convolutions to show: the first one, the last one, and some between, evenly spaced.

    Args:
        network: The network.
        most: Max number of convolutions.

    Returns:
        Indices of operations.
    """
    every = network.places("conv")
    if len(every) <= most:
        return every
    return [every[at] for at in np.linspace(0, len(every) - 1, most).round().astype(int)]


def operations_around(network: Network, convolution: int) -> list[int]:
    """Return the operations whose maps belong to a convolution.

    These are its input, the convolution, and what follows it up to its activation and a pooling.

    Args:
        network: The network.
        convolution: Index of the convolution.
    """
    operations = network.operations
    readers: dict[int, list[int]] = {at: [] for at in range(len(operations))}
    for at, operation in enumerate(operations):
        for source in operation.inputs:
            readers[source].append(at)
    found, at, activated = [convolution], convolution, False
    while len(readers[at]) == 1:
        (at,) = readers[at]
        kind = operations[at].kind
        if kind not in ("affine", "add", "activation", "max_pool", "average_pool"):
            break
        if activated and kind != "max_pool":
            break
        found.append(at)
        activated = activated or kind == "activation"
        if kind in ("max_pool", "average_pool"):
            break
    return found


def store(values: np.ndarray, channels: Sequence[int]) -> dict[str, Any]:
    """Store some maps of an operation.

    Args:
        values: (H, W, C) float32.
        channels: Indices of the maps.

    Returns:
        Plain values: the channels, the size of the maps, the smallest value and the step of each
        map, and a PNG file with the maps below each other. Maps above `MAX_SIDE` are halved.
    """
    maps = [_reduced(values[:, :, channel]) for channel in channels]
    scales, bytes_ = [], []
    for each in maps:
        low, high = float(each.min()), float(each.max())
        step = (high - low) / 255 or 1.0
        # A value of zero stays zero, which the share of zeros counts.
        if low < 0 < high:
            low = -round(-low / step) * step
        scales.append([low, step])
        bytes_.append(np.rint((each - low) / step).clip(0, 255).astype(np.uint8))
    file = BytesIO()
    Image.fromarray(np.concatenate(bytes_)).save(file, "PNG", optimize=True)
    return {
        "channels": [int(each) for each in channels],
        "shape": list(maps[0].shape),
        "scales": scales,
        "sprite": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii"),
    }


def _reduced(values: np.ndarray) -> np.ndarray:
    while max(values.shape) > MAX_SIDE:
        rows, columns = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
        even = values[:rows, :columns]
        values = even.reshape(rows // 2, 2, columns // 2, 2).mean((1, 3))
    return values
