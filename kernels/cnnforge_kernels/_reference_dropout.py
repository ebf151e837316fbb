"""Reference implementation of dropout in plain NumPy; it is part of ``reference.py``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def philox(count: int, key: NDArray[np.uint64], counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return ``count`` random words of Philox4x32-10; ``counter`` is [low half, high half]."""
    half, word = np.uint64(32), np.uint64(2**32 - 1)
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    low = counter[0] + blocks
    high = counter[1] + (low < blocks)
    words, keys = [low & word, low >> half, high & word, high >> half], [key & word, key >> half]
    for _ in range(10):
        first, second = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        mixed = (second >> half) ^ words[1] ^ keys[0], (first >> half) ^ words[3] ^ keys[1]
        words = [mixed[0], second & word, mixed[1], first & word]
        steps = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
        keys = [(key + step) & word for key, step in zip(keys, steps, strict=True)]
    return np.stack(words, -1).reshape(-1)[:count]


def dropout(
    inputs: NDArray, key: NDArray[np.uint64], counter: NDArray[np.uint64], rate: float
) -> tuple[Array, NDArray[np.bool_]]:
    """Return two arrays: the outputs, and a mask that is true for the elements that are kept."""
    uniform = (philox(inputs.size, key, counter) % 2**23).reshape(inputs.shape) / 2**23
    kept = uniform >= np.float32(rate)
    return np.where(kept, inputs / (1 - rate), 0.0), kept


def dropout_grad(kept: NDArray, grad_outputs: NDArray, rate: float) -> Array:
    """Return the gradient of the inputs from that of the outputs and the mask ``kept``."""
    return np.where(kept, grad_outputs / (1 - rate), 0.0)
