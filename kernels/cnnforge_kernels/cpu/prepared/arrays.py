"""Arrays that begin at a cache line, for packed weights and for the buffers of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_LINE = 64


def aligned_empty(shape: Any, dtype: Any = np.float32) -> np.ndarray:
    """Return an uninitialised array that begins at a cache line."""
    return _aligned(np.empty, shape, dtype)


def aligned_zeros(shape: Any) -> np.ndarray:
    """Return a float32 array of zeros that begins at a cache line."""
    return _aligned(np.zeros, shape, np.float32)


def aligned_copy(values: Any) -> np.ndarray:
    """Return a float32 copy of ``values`` that begins at a cache line."""
    values = np.asarray(values)
    copy = aligned_empty(values.shape)
    copy[...] = values
    return copy


def _aligned(allocate: Callable[..., np.ndarray], shape: Any, dtype: Any) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = allocate(size + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + size].view(dtype).reshape(shape)
