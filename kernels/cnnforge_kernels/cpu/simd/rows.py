"""Loops over rows of float32 values, written with SIMD registers, for the functions of an op.

The functions take 1-D arrays, so a caller needs no addresses and no numbers of lanes. In Python
they are plain NumPy, so that they also run in a debugger. Compiled code calls the SIMD version.

A sum of several rows is computed in registers: each value is loaded once, and the target is stored
once. Numba's own code for ``target[i] += factor * source[i]`` loads and stores the target once for
each row.

The functions do not check the sizes of arrays. An index that is out of range reads other memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from cnnforge_kernels.cpu.runtime.compiled import cached_njit, vector_lanes
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.simd.vectors import (
    vector_add,
    vector_load,
    vector_multiply_add,
    vector_splat,
    vector_store,
)

_LANES = vector_lanes()
_BLOCK = 4 * _LANES


def weighted_sum(target: Any, source: Any, starts: Any, weights: Any) -> None:
    """Write a weighted sum of parts of ``source`` to ``target``.

    This computes ``target[i] = sum of weights[k] * source[starts[k] + i]`` over k, for each i. The
    terms are added in the order of k.

    Args:
        target: (n,) float32, C-contiguous.
        source: float32, 1-D and C-contiguous. It must not overlap ``target``.
        starts: (K,) int64, index in ``source`` of the first value of each part.
        weights: (K,) float32.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.authoring import weighted_sum
        >>> target = np.empty(3, np.float32)
        >>> source = np.arange(6, dtype=np.float32)
        >>> weighted_sum(target, source, np.array([0, 3]), np.array([1, 10], np.float32))
        >>> target
        array([30., 41., 52.], dtype=float32)
    """
    target[:] = 0
    for start, weight in zip(starts, weights, strict=True):
        target += weight * source[start : start + target.size]


def product_sum(target: Any, first: Any, starts: Any, second: Any, others: Any) -> None:
    """Write a sum of products of parts of two arrays to ``target``.

    This computes ``target[i] = sum of first[starts[k] + i] * second[others[k] + i]`` over k, for
    each i. A depthwise convolution is such a sum: i is a channel, and k is a cell of the window.

    Args:
        target: (n,) float32, C-contiguous.
        first: float32, 1-D and C-contiguous. It must not overlap ``target``.
        starts: (K,) int64, index in ``first`` of the first value of each part.
        second: float32, 1-D and C-contiguous. It must not overlap ``target``.
        others: (K,) int64, index in ``second`` of the first value of each part.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.authoring import product_sum
        >>> target = np.empty(2, np.float32)
        >>> values = np.arange(6, dtype=np.float32)
        >>> product_sum(target, values, np.array([0, 4]), values, np.array([2, 0]))
        >>> target
        array([0., 8.], dtype=float32)
    """
    target[:] = 0
    for start, other in zip(starts, others, strict=True):
        target += first[start : start + target.size] * second[other : other + target.size]


def dot(first: Any, second: Any) -> Any:
    """Return the sum of ``first[i] * second[i]`` over i, as float32.

    The products are added in another order than one after another, but always in the same order
    for the same size on the same machine.

    Args:
        first: (n,) float32, C-contiguous.
        second: (n,) float32, C-contiguous.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.authoring import dot
        >>> float(dot(np.arange(4, dtype=np.float32), np.ones(4, np.float32)))
        6.0
    """
    return np.float32(np.sum(first * second, dtype=np.float32))


@cached_njit()
def _weighted_sum(target: Any, source: Any, starts: Any, weights: Any) -> None:
    size, count = target.size, starts.size
    to, base = address_of(target), address_of(source)
    zero = vector_splat(np.float32(0), _LANES)
    i = 0
    while i + _BLOCK <= size:
        a, b, c, d = zero, zero, zero, zero
        for k in range(count):
            here = base + 4 * (starts[k] + i)
            weight = vector_splat(weights[k], _LANES)
            a = vector_multiply_add(vector_load(here, _LANES, _LANES), weight, a)
            b = vector_multiply_add(vector_load(here + 4 * _LANES, _LANES, _LANES), weight, b)
            c = vector_multiply_add(vector_load(here + 8 * _LANES, _LANES, _LANES), weight, c)
            d = vector_multiply_add(vector_load(here + 12 * _LANES, _LANES, _LANES), weight, d)
        vector_store(a, to + 4 * i, _LANES)
        vector_store(b, to + 4 * (i + _LANES), _LANES)
        vector_store(c, to + 4 * (i + 2 * _LANES), _LANES)
        vector_store(d, to + 4 * (i + 3 * _LANES), _LANES)
        i += _BLOCK
    while i < size:
        a, valid = zero, size - i
        for k in range(count):
            value = vector_load(base + 4 * (starts[k] + i), valid, _LANES)
            a = vector_multiply_add(value, vector_splat(weights[k], _LANES), a)
        vector_store(a, to + 4 * i, valid)
        i += _LANES


@cached_njit()
def _product_sum(target: Any, first: Any, starts: Any, second: Any, others: Any) -> None:
    size, count = target.size, starts.size
    to, base, other = address_of(target), address_of(first), address_of(second)
    zero = vector_splat(np.float32(0), _LANES)
    i = 0
    while i + 2 * _LANES <= size:
        a, b = zero, zero
        for k in range(count):
            here, there = base + 4 * (starts[k] + i), other + 4 * (others[k] + i)
            x, y = vector_load(here, _LANES, _LANES), vector_load(there, _LANES, _LANES)
            a = vector_multiply_add(x, y, a)
            x = vector_load(here + 4 * _LANES, _LANES, _LANES)
            y = vector_load(there + 4 * _LANES, _LANES, _LANES)
            b = vector_multiply_add(x, y, b)
        vector_store(a, to + 4 * i, _LANES)
        vector_store(b, to + 4 * (i + _LANES), _LANES)
        i += 2 * _LANES
    while i < size:
        a, valid = zero, size - i
        for k in range(count):
            x = vector_load(base + 4 * (starts[k] + i), valid, _LANES)
            y = vector_load(other + 4 * (others[k] + i), valid, _LANES)
            a = vector_multiply_add(x, y, a)
        vector_store(a, to + 4 * i, valid)
        i += _LANES


@cached_njit()
def _dot(first: Any, second: Any) -> Any:
    size = min(first.size, second.size)
    left, right = address_of(first), address_of(second)
    zero = vector_splat(np.float32(0), _LANES)
    a, b = zero, zero
    i = 0
    while i < size:
        valid = size - i
        x, y = vector_load(left + 4 * i, valid, _LANES), vector_load(right + 4 * i, valid, _LANES)
        a = vector_multiply_add(x, y, a)
        i += _LANES
        if i < size:
            valid = size - i
            x = vector_load(left + 4 * i, valid, _LANES)
            y = vector_load(right + 4 * i, valid, _LANES)
            b = vector_multiply_add(x, y, b)
            i += _LANES
    lanes = np.empty(_LANES, np.float32)
    vector_store(vector_add(a, b), address_of(lanes), _LANES)
    total = np.float32(0)
    for lane in range(_LANES):
        total += lanes[lane]
    return total


@overload(weighted_sum)
def _overload_weighted_sum(target: Any, source: Any, starts: Any, weights: Any) -> Any:
    def compiled(target: Any, source: Any, starts: Any, weights: Any) -> None:
        _weighted_sum(target, source, starts, weights)

    return compiled


@overload(product_sum)
def _overload_product_sum(target: Any, first: Any, starts: Any, second: Any, others: Any) -> Any:
    def compiled(target: Any, first: Any, starts: Any, second: Any, others: Any) -> None:
        _product_sum(target, first, starts, second, others)

    return compiled


@overload(dot)
def _overload_dot(first: Any, second: Any) -> Any:
    def compiled(first: Any, second: Any) -> Any:
        return _dot(first, second)

    return compiled
