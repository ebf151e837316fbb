"""Winograd's F(4x4, 3x3) for trained networks: 36 multiplications for 16 outputs in place of 144.

A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4.3. A tile is
4x4 outputs and the 6x6 inputs that they read. As in ``forward.py``, the inputs of a tile and the
weights are transformed to planes, here 36, and the products of the planes are transformed to
outputs. The transform evaluates polynomials at 0, at infinity and at four other points. These are
the square roots of 1/2 and of 2, with both signs. They are close to 1, so that rounding errors stay
small, and the product of their squares is 1, which saves multiplications.

Training uses F(2x2, 3x3), whose results are more exact. For a network of 19 convolutions with
random weights, the error of the logits was 7.7e-7 of their maximum here, 4.8e-7 with F(2x2, 3x3),
and 3.5e-7 without Winograd's algorithm.

There are two ways to divide the work. If an image has many tiles, a task transforms some tiles,
multiplies them, and computes their outputs. If there are few tiles and many filters, all threads
would read all weights. Then a first call transforms the inputs of all tiles, and a task of the
second call computes some filters.

If a sum is not finite, the kernel reports this (see ``forward.py``), and the caller has to compute
all outputs again without Winograd's algorithm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv.winograd import inference_passes as p
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel


@cached_njit()
def _outputs(a: Any, t: Any, tiles: int) -> None:
    """Multiply ``tiles`` tiles by the weights of a block of filters, and compute the outputs.

    The arguments are the argument block and the block of the task.
    """
    t[p.TASK_TILES] = tiles
    call_kernel(a[p.MULTIPLY_KERNEL], address_of(t), 0, p.PLANES)
    call_kernel(a[p.JOIN_KERNEL], address_of(t), t[p.TASK_FIRST], t[p.TASK_FIRST] + tiles)


@kernel_family(2)
def WINOGRAD(alone: int) -> Any:
    """Compute outputs.

    If ``alone`` is 1, a task transforms the inputs of a chunk of tiles, and computes their outputs.
    If it is 0, ``SPREAD_ALL`` has transformed the inputs, and a task computes the outputs of a
    chunk of tiles for a block of filters.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _winograd_tiles(args: Any, begin: int, end: int) -> None:
        a = carray(args, p.FIELDS)
        chunk, channels, width = a[p.CHUNK], a[p.CHANNELS], a[p.BLOCK_FILTERS]
        t = np.zeros(p.TASK_FIELDS, np.int64)
        t[p.TASK_SUM_PLANE] = 4 * (chunk + p.BEYOND) * width + p.APART
        sums = aligned_floats(p.PLANES * t[p.TASK_SUM_PLANE] // 4)
        plane = p.input_plane(chunk, channels)
        inputs = aligned_floats(p.PLANES * plane // 4 if alone else 1)
        zeros = np.zeros(width, np.float32)
        offsets = np.empty(channels, np.int64)
        for c in range(channels):
            offsets[c] = 4 * c
        t[p.TASK_ZEROS], t[p.TASK_OFFSETS] = address_of(zeros), address_of(offsets)
        t[p.TASK_SUMS], t[p.TASK_PLAN] = address_of(sums), address_of(a)
        for task in range(begin, end):
            number = task if alone else task // a[p.BLOCKS]
            first = number * chunk
            tiles = min(chunk, a[p.TILES] - first)
            t[p.TASK_FIRST] = first
            if alone:
                t[p.TASK_INPUTS], t[p.TASK_INPUT_PLANE] = address_of(inputs), plane
                call_kernel(a[p.SPREAD_KERNEL], address_of(t), first, first + tiles)
                for block in range(a[p.BLOCKS]):
                    t[p.TASK_BLOCK] = block
                    _outputs(a, t, tiles)
            else:
                t[p.TASK_INPUTS] = a[p.INPUTS] + 4 * first * channels
                t[p.TASK_INPUT_PLANE] = p.input_plane(a[p.TILES], channels)
                t[p.TASK_BLOCK] = task % a[p.BLOCKS]
                _outputs(a, t, tiles)
        # The calls above get only the addresses of these arrays. Numba frees an array after its
        # last use, so use the arrays here: they must not be freed earlier.
        sums[:0], inputs[:0], zeros[:0] = np.float32(0), np.float32(0), np.float32(0)
        t[:0], offsets[:0] = 0, 0

    return _winograd_tiles


@kernel_family(1)
def SPREAD_ALL(_: int) -> Any:
    """Transform the inputs of tiles ``begin`` to ``end - 1``."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _spread_all(args: Any, begin: int, end: int) -> None:
        a = carray(args, p.FIELDS)
        t = np.zeros(p.TASK_FIELDS, np.int64)
        t[p.TASK_PLAN], t[p.TASK_INPUTS] = address_of(a), a[p.INPUTS]
        t[p.TASK_INPUT_PLANE] = p.input_plane(a[p.TILES], a[p.CHANNELS])
        call_kernel(a[p.SPREAD_KERNEL], address_of(t), begin, end)
        t[:0] = 0

    return _spread_all
