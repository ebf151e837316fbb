"""Arrays of prepared layers that begin at a cache line."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LINE = 64


def aligned_array(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an uninitialised float32 array that begins at a cache line."""
    size = int(np.prod(shape, dtype=np.int64))
    floats = np.empty(size + _LINE // 4, np.float32)
    first = -floats.ctypes.data % _LINE // 4
    return floats[first : first + size].reshape(shape)
