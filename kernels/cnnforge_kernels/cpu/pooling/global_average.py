"""Compute global average pooling and its gradient on the CPU, for float32 arrays in NHWC order.

Each SIMD instruction works on neighbouring channels. An image is divided into blocks of 256 pixels.
A task adds every fourth pixel of a block to the same one of four sums, and then adds the four sums.
At the end the sums of the blocks of an image are added pairwise.

A value goes through at most 64 additions in one of the four sums (256 / 4), 2 additions of these
sums, and log2(blocks) additions of blocks. So the mean of a large image is as accurate as the mean
of a small one (N. Higham, "The Accuracy of Floating Point Summation", 1993, section 2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.depthwise.sweep import choose_lanes, width_number
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.channels import pixels_sum
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.vectors import load_float, vector_add, vector_load, vector_store

# Indices of the values in the argument block of a kernel: the address of the array that is read,
# the address of the array that is written, the number of channels, the number of pixels of an
# image, and the number of blocks of an image.
SOURCE, TARGET, CHANNELS, PIXELS, BLOCKS = range(5)
FIELDS = 5

BLOCK = 256  # the number of pixels of a block
_CHAINS = 4
MAX_VECTORS = 4
_GRAIN_FLOATS = 64 * 1024


@kernel_family(MAX_VECTORS * 5)
def SUM(number: int) -> Any:
    """Add the pixels of each block of each image; a task is a block."""
    G, L = number % MAX_VECTORS + 1, 1 << (number // MAX_VECTORS)

    @cached_cfunc(KERNEL_SIGNATURE)
    def _global_sum_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        channels = a[CHANNELS]
        pixel = 4 * channels
        for task in range(begin, end):
            first = task % a[BLOCKS] * BLOCK
            count = min(BLOCK, a[PIXELS] - first)
            source = a[SOURCE] + (task // a[BLOCKS] * a[PIXELS] + first) * pixel
            rest = source + count // _CHAINS * _CHAINS * pixel
            c = 0
            while c < channels:
                c = min(c, channels - G * L)
                chains = pixels_sum(source + 4 * c, pixel, count // _CHAINS, _CHAINS, G, L)
                last = pixels_sum(rest + 4 * c, pixel, count % _CHAINS, 1, G, L)
                for v in range(G):
                    total = vector_add(
                        vector_add(chains[v], chains[G + v]),
                        vector_add(chains[2 * G + v], chains[3 * G + v]),
                    )
                    place = a[TARGET] + task * pixel + 4 * (c + v * L)
                    vector_store(vector_add(total, last[v]), place, L)
                c += G * L

    return _global_sum_kernel


@kernel_family(1)
def _SPREAD(_: int) -> Any:
    @cached_cfunc(KERNEL_SIGNATURE)
    def _global_spread_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, FIELDS)
        channels = a[CHANNELS]
        # All pixels of an image get the same values. `pattern` contains several such pixels, and is
        # stored repeatedly. Storing one pixel at a time would need more partly filled vectors.
        run = max(1, 512 // channels)
        pattern = np.empty(run * channels, np.float32)
        share = np.float32(a[PIXELS])
        for task in range(begin, end):
            for c in range(channels):
                value = load_float(a[SOURCE] + 4 * (task * channels + c)) / share
                for index in range(run):
                    pattern[index * channels + c] = value
            target = a[TARGET] + task * a[PIXELS] * 4 * channels
            for first in range(0, a[PIXELS], run):
                count = min(run, a[PIXELS] - first) * channels
                place = target + 4 * first * channels
                for index in range(0, count, MAX_LANES):
                    value = vector_load(address_of(pattern) + 4 * index, count - index, MAX_LANES)
                    vector_store(value, place + 4 * index, count - index)
        # vector_load got only the address of `pattern`. Numba frees an array after its last use, so
        # use `pattern` here, to keep it until the loops have finished.
        pattern[:0] = np.float32(0)

    return _global_spread_kernel


@cached_njit()
def global_average_pool2d_forward(inputs: Any, outputs: Any) -> None:
    """Compute the mean of each channel of each image; the mean is NaN if there are no pixels.

    Args:
        inputs: (N, H, W, C) float32. All arrays must be float32 and C-contiguous.
        outputs: (N, C), which the function writes.
    """
    images, height, width, channels = inputs.shape
    pixels = height * width
    if inputs.size == 0:
        outputs[:] = np.float32(np.nan)
        return
    blocks = (pixels + BLOCK - 1) // BLOCK
    sums = np.empty((images, blocks, channels), np.float32)
    args = np.zeros(FIELDS, np.int64)
    args[SOURCE], args[TARGET] = address_of(inputs), address_of(sums)
    args[CHANNELS], args[PIXELS], args[BLOCKS] = channels, pixels, blocks
    vectors, lanes = choose_lanes(channels, MAX_VECTORS)
    grain = max(1, _GRAIN_FLOATS // (min(pixels, BLOCK) * channels))
    number = vectors - 1 + MAX_VECTORS * width_number(lanes)
    run_kernel(SUM + number, args, images * blocks, grain)
    for image in range(images):
        distance = 1
        while distance < blocks:
            for block in range(0, blocks - distance, 2 * distance):
                for c in range(channels):
                    sums[image, block, c] += sums[image, block + distance, c]
            distance *= 2
        for c in range(channels):
            outputs[image, c] = sums[image, 0, c] / np.float32(pixels)


@cached_njit()
def global_average_pool2d_grad_inputs(inputs: Any, grad_outputs: Any, grad_inputs: Any) -> None:
    """Compute the gradient of the inputs; the function reads only the shape of ``inputs``."""
    if grad_inputs.size == 0:
        return
    images, height, width, channels = inputs.shape
    args = np.zeros(FIELDS, np.int64)
    args[SOURCE], args[TARGET] = address_of(grad_outputs), address_of(grad_inputs)
    args[CHANNELS], args[PIXELS] = channels, height * width
    run_kernel(_SPREAD, args, images, max(1, _GRAIN_FLOATS // (height * width * channels)))
