"""Compute dropout and its gradient on the CPU in float32, with the mask that TensorFlow draws.

The random number generator Philox4x32-10 (``simd/philox.py``) makes one 32-bit word for each
element. The low 23 bits of the word are a uniform number in [0, 1). The element is kept if this
number is not below the rate. The word of element i depends only on the key, the counter and i. So
any thread can compute any element.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, load_int64
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.philox import index_uniform_at_least, philox_words
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.vectors import (
    index_load,
    index_store,
    load_float,
    store_float,
    vector_load,
    vector_multiply,
    vector_splat,
    vector_store,
    vector_where_not,
)

# Indices of the values in the argument block of a kernel: the addresses of the array that is read,
# of the array that is written and of the mask; the number of elements; the scale, a float32 in the
# first four bytes of its value; the key of Philox; the low and the high half of the counter of
# Philox; and the smallest 23-bit number with which an element is kept.
SOURCE, TARGET, MASK, COUNT, SCALE, KEY, COUNTER_LOW, COUNTER_HIGH, THRESHOLD = range(9)
FIELDS = 9

# The number of elements of a task. One thread computes them in 15 us. The number is a multiple of
# 2 * MAX_LANES, the number of random words that one iteration of the kernel's loop draws.
_CHUNK = 16 * 1024
_GRAIN = 2
# The number of different uniform random numbers: each has 23 bits.
_STEPS = 1 << 23


@kernel_family(1)
def _DROPOUT(_: int) -> Any:
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _dropout_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        source, target, mask = a[SOURCE], a[TARGET], a[MASK]
        key, threshold = a[KEY], a[THRESHOLD]
        scale = vector_splat(load_float(address_of(a) + 8 * SCALE), L)
        first = begin * _CHUNK
        last = min(end * _CHUNK, a[COUNT])
        low = a[COUNTER_LOW] + first // 4
        high = a[COUNTER_HIGH]
        if np.uint64(low) < np.uint64(a[COUNTER_LOW]):
            high += 1
        whole = first + (last - first) // (2 * L) * (2 * L)
        for index in range(first, whole, 2 * L):
            words = philox_words(key, low, high, L)
            for v in range(2):
                place = index + v * L
                kept = index_uniform_at_least(words[v], threshold)
                value = vector_multiply(vector_load(source + 4 * place, L, L), scale)
                vector_store(vector_where_not(kept, 0, value), target + 4 * place, L)
                index_store(kept, mask + place, L, 1)
            before = low
            low += L // 2
            if np.uint64(low) < np.uint64(before):
                high += 1
        if whole < last:
            words = philox_words(key, low, high, L)
            for v in range(2):
                place = whole + v * L
                kept = index_uniform_at_least(words[v], threshold)
                value = vector_load(source + 4 * place, last - place, L)
                value = vector_where_not(kept, 0, vector_multiply(value, scale))
                vector_store(value, target + 4 * place, last - place)
                index_store(kept, mask + place, last - place, 1)

    return _dropout_kernel


@kernel_family(1)
def _DROPOUT_GRAD(_: int) -> Any:
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _dropout_grad_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        source, target, mask = a[SOURCE], a[TARGET], a[MASK]
        scale = vector_splat(load_float(address_of(a) + 8 * SCALE), L)
        first = begin * _CHUNK
        last = min(end * _CHUNK, a[COUNT])
        whole = first + (last - first) // L * L
        for place in range(first, whole, L):
            kept = index_load(mask + place, L, 1, L)
            value = vector_multiply(vector_load(source + 4 * place, L, L), scale)
            vector_store(vector_where_not(kept, 0, value), target + 4 * place, L)
        if whole < last:
            kept = index_load(mask + whole, last - whole, 1, L)
            value = vector_load(source + 4 * whole, last - whole, L)
            value = vector_where_not(kept, 0, vector_multiply(value, scale))
            vector_store(value, target + 4 * whole, last - whole)

    return _dropout_grad_kernel


@cached_njit()
def _run(kernel: int, args: Any, source: Any, target: Any, mask: Any, rate: float) -> None:
    args[SOURCE], args[TARGET] = address_of(source), address_of(target)
    args[MASK], args[COUNT] = address_of(mask), source.size
    # Compute the scale in float64, and then round it to float32, as Keras' dropout does.
    store_float(address_of(args) + 8 * SCALE, np.float32(1 / (1 - rate)))
    run_kernel(kernel, args, (source.size + _CHUNK - 1) // _CHUNK, _GRAIN)


@cached_njit()
def dropout_forward(
    inputs: Any, key: Any, counter: Any, rate: float, outputs: Any, mask: Any
) -> None:
    """Write ``inputs / (1 - rate)``, or zero if the element's random number is below the rate.

    Args:
        inputs: (N,) float32. All arrays must be C-contiguous.
        key: (1,) uint64, key of Philox.
        counter: (2,) uint64, Philox's counter for the first four elements, with the low half first.
        rate: Probability that an element becomes zero, in [0, 1).
        outputs: (N,) float32, which the function writes.
        mask: (N,) uint8, which the function writes: 1 if the element is kept, else 0.
    """
    args = np.zeros(FIELDS, np.int64)
    args[KEY] = load_int64(address_of(key))
    args[COUNTER_LOW] = load_int64(address_of(counter))
    args[COUNTER_HIGH] = load_int64(address_of(counter) + 8)
    args[THRESHOLD] = np.int64(np.ceil(np.float32(rate) * np.float32(_STEPS)))
    _run(_DROPOUT, args, inputs, outputs, mask, rate)


@cached_njit()
def dropout_grad_inputs(mask: Any, rate: float, grad_outputs: Any, grad_inputs: Any) -> None:
    """Write ``grad_outputs / (1 - rate)`` if the mask is 1, or zero if it is 0."""
    args = np.zeros(FIELDS, np.int64)
    _run(_DROPOUT_GRAD, args, grad_outputs, grad_inputs, mask, rate)
