"""Kernel of the gradients of the weights and the bias, in which each thread has one filter.

Two ops use this kernel. In a depthwise convolution each filter reads its own channel, so threads
with different filters cannot share inputs. With max pooling after the convolution (``pool`` is
given), each gradient of a pooled value belongs to one output of the convolution: the argmax of the
pooling window. The kernel multiplies only for this output. For a 2 x 2 pool that is a quarter of
the products, or fewer if some outputs of the ReLU are zero. The pooled form is for weights that are
too large for the direct kernel (``direct/weights.py``).

A thread keeps the sums of a few taps and channels of its filter in registers and loops over its
share of the pixels. All pixels are cut into slices. A block adds the sums of its threads in a fixed
order and writes the results for its slice to a scratch array. ``reduce.py`` adds the slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide, load4
from cnnforge_kernels.cuda.conv.direct.forward import NO_ARGMAX
from cnnforge_kernels.cuda.conv.specialization import ConvSpecialization, size_of, threads_of

float32, int32, uint32 = np.float32, np.int32, np.uint32

THREADS = 128
_MAX_SUMS = 36


@dataclass(frozen=True, kw_only=True)
class Gather(ConvSpecialization):
    """Constants that a kernel of ``gather_weights`` is compiled for."""

    pool: tuple[int, int] | None = None
    threads: int = THREADS

    @property
    def taps(self) -> tuple[int, int]:
        """Number of rows and of columns of taps whose sums a thread keeps."""
        limit = _MAX_SUMS // self.vector
        if self.window[1] > limit:
            return 1, limit
        parts = -(-self.window[0] // (limit // self.window[1]))
        return -(-self.window[0] // parts), self.window[1]

    @property
    def tap_blocks(self) -> tuple[int, int]:
        """Number of blocks that share the rows of taps, and of blocks that share the columns."""
        return -(-self.window[0] // self.taps[0]), -(-self.window[1] // self.taps[1])

    @property
    def lanes(self) -> int:
        """Number of filters per block."""
        return min(1 << (self.filters * self.groups - 1).bit_length(), 32)

    @property
    def blocks(self) -> int:
        """Number of blocks per slice of the pixels."""
        filters = -(-self.filters * self.groups // self.lanes)
        return filters * self.tap_blocks[0] * self.tap_blocks[1] * (self.channels // self.vector)

    @property
    def resident(self) -> int:
        """Number of blocks that must fit on a multiprocessor.

        These blocks have 512 threads in total, which leaves 128 registers for each thread.
        """
        return 512 // self.threads

    @property
    def name(self) -> str:
        """Name of the kernel, such as ``"conv_block_grad_weights 5x5x1x8 pool 2x2"``."""
        op = "conv_block_grad_weights" if self.pool else "depthwise_grad_weights"
        threads = threads_of(self.threads, THREADS)
        return self.named(op, size_of("pool", self.pool), threads)


@cache
def gather_weights(c: Gather) -> Kernel:
    """Make the kernel for these constants.

    Its arguments are inputs, grads, mask (outputs of the forward pass, for ``relu``), argmax (for
    ``pool``) and scratch; then height and width of the inputs, rows and columns of ``grads``, top
    and left padding, the total number of pixels of ``grads``, the number of pixels per slice and
    the number of floats per slice of the scratch array. The grid is (``c.blocks``, slices). A slice
    of the scratch array holds the gradient of the weights (KH, KW, C / groups, F), then that of the
    bias (F,).
    """
    RELU, SPARSE = c.relu, c.pool is not None
    KH, KW = c.window
    SR, SC = c.strides
    DR, DC = c.dilation
    PH, PW = c.pool or (1, 1)
    CHANNELS, ALL_CHANNELS = c.channels, c.channels * c.groups
    FILTERS, ALL_FILTERS = c.filters, c.filters * c.groups
    V, (DOWN, ACROSS) = c.vector, c.taps
    ACROSS_BLOCKS = c.tap_blocks[1]
    TAP_BLOCKS = c.tap_blocks[0] * c.tap_blocks[1]
    CHANNEL_BLOCKS = CHANNELS // V
    LANES, THREADS = c.lanes, c.threads
    COPIES = THREADS // LANES
    SUMS = DOWN * ACROSS * V
    SHARED = (SUMS + 1) * THREADS
    WEIGHTS = KH * KW * CHANNELS * ALL_FILTERS

    @kernel(
        c.name,
        *("float32*",) * 3,
        "uint8*",
        "float32*",
        *("int32",) * 9,
        threads=THREADS,
        blocks=c.resident,
        identity=(c,),
    )
    def gather_weights(
        inputs,
        grads,
        mask,
        argmax,
        scratch,
        height,
        width,
        rows,
        columns,
        top,
        left,
        pixels,
        slice_pixels,
        slice_floats,
    ):
        shared = cuda.shared.array(SHARED, float32)
        acc = cuda.local.array(SUMS, float32)
        thread = int32(cuda.threadIdx.x)
        copy = divide(thread, LANES)
        lane = int32(thread - copy * LANES)
        rest = divide(cuda.blockIdx.x, CHANNEL_BLOCKS)
        channel_block = int32(cuda.blockIdx.x - rest * CHANNEL_BLOCKS)
        filter_block = divide(rest, TAP_BLOCKS)
        tap_block = int32(rest - filter_block * TAP_BLOCKS)
        i0 = int32(divide(tap_block, ACROSS_BLOCKS) * DOWN)
        j0 = int32((tap_block - divide(tap_block, ACROSS_BLOCKS) * ACROSS_BLOCKS) * ACROSS)
        f = int32(filter_block * LANES + lane)
        channel = int32(divide(f, FILTERS) * CHANNELS + channel_block * V)
        total = float32(0)
        for a in range(SUMS):
            acc[a] = float32(0)
        begin = int32(cuda.blockIdx.y * slice_pixels)
        end = int32(min(begin + slice_pixels, pixels))
        if f < ALL_FILTERS and copy < COPIES:
            for pixel in range(begin + copy, end, COPIES):
                place = np.int64(pixel) * ALL_FILTERS + f
                cell = int32(0)
                if SPARSE:
                    cell = int32(argmax[place])
                if cell != NO_ARGMAX or not SPARSE:
                    g = grads[place]
                    if RELU and not mask[place] > float32(0):
                        g = float32(0)
                    total += g
                    line = divide(pixel, columns)
                    image = divide(line, rows)
                    down = divide(cell, PW)
                    row0 = int32(((line - image * rows) * PH + down) * SR - top + i0 * DR)
                    column0 = int32(
                        ((pixel - line * columns) * PW + cell - down * PW) * SC - left + j0 * DC
                    )
                    source = np.int64(image) * (height * width * ALL_CHANNELS) + channel
                    for i in range(DOWN):
                        row = int32(row0 + i * DR)
                        inside = uint32(row) < uint32(height)
                        for j in range(ACROSS):
                            column = int32(column0 + j * DC)
                            if inside and uint32(column) < uint32(width):
                                where = source + int32((row * width + column) * ALL_CHANNELS)
                                t = (i * ACROSS + j) * V
                                if V == 4:
                                    x = load4(inputs, where)
                                    acc[t] += g * x[0]
                                    acc[t + 1] += g * x[1]
                                    acc[t + 2] += g * x[2]
                                    acc[t + 3] += g * x[3]
                                else:
                                    acc[t] += g * inputs[where]
        for a in range(SUMS):
            shared[uint32(a * THREADS + thread)] = acc[a]
        shared[uint32(SUMS * THREADS + thread)] = total
        cuda.syncthreads()
        base = np.int64(cuda.blockIdx.y) * slice_floats
        for e in range(thread, (SUMS + 1) * LANES, THREADS):
            a = divide(e, LANES)
            lane = int32(e - a * LANES)
            value = float32(0)
            for k in range(COPIES):
                value += shared[uint32(a * THREADS + k * LANES + lane)]
            f = int32(filter_block * LANES + lane)
            tap = divide(a, V)
            down = divide(tap, ACROSS)
            i, j = int32(i0 + down), int32(j0 + tap - down * ACROSS)
            if f < ALL_FILTERS:
                if a == SUMS:
                    if tap_block == 0 and channel_block == 0:
                        scratch[base + WEIGHTS + f] = value
                elif i < KH and j < KW:
                    ch = int32(channel_block * V + a - tap * V)
                    scratch[base + int32(((i * KW + j) * CHANNELS + ch) * ALL_FILTERS + f)] = value

    return gather_weights
