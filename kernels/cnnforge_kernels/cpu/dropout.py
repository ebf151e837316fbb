"""Dropout on the CPU and its gradient: float32, with TensorFlow's mask, bit for bit.

Word i of the stream (Philox4x32-10, see ``simd/philox.py``) decides about element i: its low 23
bits are a uniform number, and the element stays if that is not below the rate. A word depends only
on its place, so that any thread can compute any chunk.
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

# Fields of the argument block: addresses in bytes, bits of the key and the counter, counts, and
# the scale, a float32 in the first half of its field. TARGET is the address of the outputs.
SOURCE, TARGET, MASK, COUNT, SCALE, KEY, COUNTER_LOW, COUNTER_HIGH, THRESHOLD = range(9)
FIELDS = 9

# Elements of a task, whole blocks of words and whole vectors: 15 us of one thread.
_CHUNK = 16 * 1024
_GRAIN = 2
# Number of different uniform numbers: they have 23 bits.
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
    # In double precision, and rounded once, as Python computes it for TensorFlow.
    store_float(address_of(args) + 8 * SCALE, np.float32(1 / (1 - rate)))
    run_kernel(kernel, args, (source.size + _CHUNK - 1) // _CHUNK, _GRAIN)


@cached_njit()
def dropout_forward(
    inputs: Any, key: Any, counter: Any, rate: float, outputs: Any, mask: Any
) -> None:
    """Write ``inputs / (1 - rate)``, or zero if the element's random number is below the rate.

    Args:
        inputs: (N,) float32, C-contiguous, as all arrays here.
        key: (1,) uint64, key of Philox.
        counter: (2,) uint64, counter of the first four elements, its low half first.
        rate: probability that an element becomes zero: 0 or more, below 1.
        outputs: (N,), written.
        mask: (N,) uint8, written: 1 if an element stays, else 0.
    """
    args = np.zeros(FIELDS, np.int64)
    args[KEY] = load_int64(address_of(key))
    args[COUNTER_LOW] = load_int64(address_of(counter))
    args[COUNTER_HIGH] = load_int64(address_of(counter) + 8)
    args[THRESHOLD] = np.int64(np.ceil(np.float32(rate) * np.float32(_STEPS)))
    _run(_DROPOUT, args, inputs, outputs, mask, rate)


@cached_njit()
def dropout_grad_inputs(mask: Any, rate: float, grad_outputs: Any, grad_inputs: Any) -> None:
    """Compute the gradient of dropout's inputs from the mask."""
    args = np.zeros(FIELDS, np.int64)
    _run(_DROPOUT_GRAD, args, grad_outputs, grad_inputs, mask, rate)
