"""Arrays that begin at a cache line, for packed weights and for the buffers of a plan."""

from __future__ import annotations

from typing import Any

import numpy as np

_LINE = 64


def aligned_empty(shape: Any, dtype: Any = np.float32) -> np.ndarray:
    """Return an uninitialised array that begins at a cache line."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.empty(size + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def aligned_copy(values: Any) -> np.ndarray:
    """Return a float32 copy of ``values`` that begins at a cache line."""
    values = np.asarray(values)
    copy = aligned_empty(values.shape)
    copy[...] = values
    return copy
