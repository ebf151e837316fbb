"""The softmax over the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.cpu.runtime.compiled import KERNEL_SIGNATURE, cached_cfunc, kernel_family
from cnnforge_kernels.cpu.simd.activations import vector_exp
from cnnforge_kernels.cpu.simd.reductions import (
    lanes_maximum,
    lanes_sum,
    vector_first_lanes,
    vector_larger,
)
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.vectors import (
    vector_add,
    vector_divide,
    vector_load,
    vector_splat,
    vector_store,
    vector_subtract,
)

# Fields of the argument block: two addresses, and the number of values of a row.
_SOURCE, _TARGET, _WIDE = range(3)
_FIELDS = 3

_GRAIN_FLOATS = 8 * 1024


@kernel_family(1)
def _SOFTMAX(_: int) -> Any:
    """Compute the softmax; a task is a row."""
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _softmax_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _FIELDS)
        wide = a[_WIDE]
        lowest = np.float32(-np.inf)
        for task in range(begin, end):
            source = a[_SOURCE] + 4 * task * wide
            target = a[_TARGET] + 4 * task * wide
            largest = vector_splat(lowest, L)
            for index in range(0, wide, L):
                value = vector_load(source + 4 * index, wide - index, L)
                value = vector_first_lanes(value, wide - index, lowest)
                largest = vector_larger(largest, value)
            top = vector_splat(lanes_maximum(largest), L)
            sums = vector_splat(np.float32(0), L)
            for index in range(0, wide, L):
                value = vector_load(source + 4 * index, wide - index, L)
                value = vector_exp(vector_subtract(value, top))
                vector_store(value, target + 4 * index, wide - index)
                value = vector_first_lanes(value, wide - index, np.float32(0))
                sums = vector_add(sums, value)
            total = vector_splat(lanes_sum(sums), L)
            for index in range(0, wide, L):
                value = vector_load(target + 4 * index, wide - index, L)
                vector_store(vector_divide(value, total), target + 4 * index, wide - index)

    return _softmax_kernel


class Softmax:
    """The softmax over the last axis.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.cpu.prepared.softmax import Softmax
        >>> from cnnforge_kernels.cpu.runtime.call_list import CallList
        >>> scores, shares = np.zeros((1, 4), np.float32), np.empty((1, 4), np.float32)
        >>> CallList(Softmax().bind(scores, shares))()
        >>> shares
        array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write the softmax of ``source`` to ``target``.

        Args:
            source: (..., C) float32, C-contiguous.
            target: float32 array of the same shape, C-contiguous; it may be ``source``.

        Raises:
            ValueError: The shapes differ.
        """
        if source.shape != target.shape:
            raise ValueError(f"the source has shape {source.shape}, the target {target.shape}")
        if target.size == 0:
            return []
        wide = target.shape[-1]
        args = np.array([source.ctypes.data, target.ctypes.data, wide], np.int64)
        grain = max(1, _GRAIN_FLOATS // max(wide, MAX_LANES))
        return [Call(_SOFTMAX, args, target.size // wide, grain, (source, target))]
