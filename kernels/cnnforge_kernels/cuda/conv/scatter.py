"""Kernel of the gradient of the inputs of convolution and max pooling as one op.

A thread computes one input pixel, in one channel or in four. It visits the gradients of the pooled
values whose pooling windows can contain an output of the convolution that reads this input. Each
pooled gradient belongs to one output of the convolution, the argmax of its window. If that output
reads this input, the thread adds one product per channel. With a 2 x 2 pool these are a quarter of
the products of a gradient without pooling. The weights are in shared memory. Their last axis is the
axis of the channels. So a thread loads the weights of its four channels at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide, load4, load4_bytes, store4
from cnnforge_kernels.cuda.conv.direct.forward import NO_ARGMAX
from cnnforge_kernels.cuda.conv.specialization import ConvSpecialization, size_of, threads_of

float32, int32, uint32 = np.float32, np.int32, np.uint32

THREADS = 128
_SHARED_FLOATS = 4096
_MAX_SHARED_FLOATS = 12288


@dataclass(frozen=True, kw_only=True)
class Scatter(ConvSpecialization):
    """Constants that a kernel of ``scatter_inputs`` is compiled for."""

    pool: tuple[int, int]
    threads: int = THREADS

    @property
    def lanes(self) -> int:
        """Number of threads that share an input pixel and compute different channels."""
        needed = 1 << (self.channels // self.vector - 1).bit_length()
        taps = self.window[0] * self.window[1] * self.vector
        return max(min(needed, 8, 1 << (_SHARED_FLOATS // taps).bit_length() >> 1), 1)

    @property
    def filter_quad(self) -> int:
        """Number of filters that a thread reads at a time."""
        return 4 if self.aligned and self.filters % 4 == 0 else 1

    @property
    def chunk(self) -> int:
        """Number of filters whose weights are in shared memory at a time."""
        each = self.window[0] * self.window[1] * self.lanes * self.vector
        quad = self.filter_quad
        limit = max(_SHARED_FLOATS // each // quad * quad, quad)
        return min(limit, -(-self.filters // quad) * quad)

    @property
    def shared_floats(self) -> int:
        """Size of the shared memory in floats."""
        return self.window[0] * self.window[1] * self.lanes * self.vector * self.chunk

    @property
    def possible(self) -> bool:
        """Whether the weights of one chunk of filters fit into shared memory."""
        return self.shared_floats <= _MAX_SHARED_FLOATS

    @property
    def channel_blocks(self) -> int:
        """Number of blocks that share the channels of a group."""
        return -(-self.channels // (self.lanes * self.vector))

    @property
    def resident(self) -> int:
        """Number of blocks that must fit on a multiprocessor.

        These blocks have 512 threads in total, which leaves 128 registers for each thread.
        """
        return 512 // self.threads

    @property
    def name(self) -> str:
        """Name of the kernel, such as ``"conv_block_grad_inputs 3x3x8x16 pool 2x2"``."""
        threads = threads_of(self.threads, THREADS)
        return self.named("conv_block_grad_inputs", size_of("pool", self.pool), threads)


@cache
def scatter_inputs(c: Scatter) -> Kernel:
    """Make the kernel for these constants.

    Its arguments are grads, argmax, weights and grad_inputs; then height and width of the inputs,
    rows and columns of ``grads``, top and left padding, and the total number of input pixels. The
    grid is (pixels / (threads / ``c.lanes``), ``c.channel_blocks`` * groups).
    """
    KH, KW = c.window
    SR, SC = c.strides
    DR, DC = c.dilation
    PH, PW = c.pool
    CHANNELS, ALL_CHANNELS = c.channels, c.channels * c.groups
    FILTERS, ALL_FILTERS = c.filters, c.filters * c.groups
    V, Q, LANES, CHUNK, THREADS = c.vector, c.filter_quad, c.lanes, c.chunk, c.threads
    CHANNEL_BLOCKS = c.channel_blocks
    LINE = LANES * V
    SHARED = c.shared_floats
    PIXELS = THREADS // LANES

    @kernel(
        c.name,
        "float32*",
        "uint8*",
        *("float32*",) * 2,
        *("int32",) * 7,
        threads=THREADS,
        blocks=c.resident,
        identity=(c,),
    )
    def conv_block_grad_inputs(
        grads, argmax, weights, grad_inputs, height, width, rows, columns, top, left, pixels
    ):
        shared = cuda.shared.array(SHARED, float32, alignment=16)
        acc = cuda.local.array(V, float32)
        cells = cuda.local.array(Q, int32)
        values = cuda.local.array(Q, float32)
        thread = int32(cuda.threadIdx.x)
        share = divide(thread, LANES)
        lane = int32(thread - share * LANES)
        group = divide(cuda.blockIdx.y, CHANNEL_BLOCKS)
        channel0 = int32((cuda.blockIdx.y - group * CHANNEL_BLOCKS) * LINE)
        channel = int32(channel0 + lane * V)
        pixel = int32(cuda.blockIdx.x * PIXELS + share)
        line = divide(pixel, width)
        column = int32(pixel - line * width + left)
        image = divide(line, height)
        row = int32(line - image * height + top)
        live = pixel < pixels and channel < CHANNELS
        # Range of the pooled gradients whose windows can contain an output that reads this input.
        first_row = divide(divide(max(row - (KH - 1) * DR + SR - 1, 0), SR), PH)
        last_row = min(divide(divide(row, SR), PH), rows - 1)
        first_column = divide(divide(max(column - (KW - 1) * DC + SC - 1, 0), SC), PW)
        last_column = min(divide(divide(column, SC), PW), columns - 1)
        source = np.int64(image) * (rows * columns * ALL_FILTERS) + group * FILTERS
        for v in range(V):
            acc[v] = float32(0)
        for chunk in range(0, FILTERS, CHUNK):
            cuda.syncthreads()
            for e in range(thread, SHARED, THREADS):
                # Neighbouring threads read neighbouring filters, which are consecutive in memory.
                rest = divide(e, CHUNK)
                f = int32(e - rest * CHUNK)
                tap = divide(rest, LINE)
                ch = int32(rest - tap * LINE)
                value = float32(0)
                if chunk + f < FILTERS and channel0 + ch < CHANNELS:
                    place = int32((tap * CHANNELS + channel0 + ch) * ALL_FILTERS)
                    value = weights[int32(place + group * FILTERS + chunk + f)]
                shared[uint32((tap * CHUNK + f) * LINE + ch)] = value
            cuda.syncthreads()
            if live:
                for r in range(first_row, last_row + 1):
                    for q in range(first_column, last_column + 1):
                        place = source + int32((r * columns + q) * ALL_FILTERS + chunk)
                        for f in range(0, min(CHUNK, FILTERS - chunk), Q):
                            if Q == 4:
                                k = load4_bytes(argmax, place + f)
                                g = load4(grads, place + f)
                                cells[0], values[0] = k[0], g[0]
                                cells[1], values[1] = k[1], g[1]
                                cells[2], values[2] = k[2], g[2]
                                cells[3], values[3] = k[3], g[3]
                            else:
                                cells[0] = int32(argmax[place + f])
                                values[0] = grads[place + f]
                            for u in range(Q):
                                if cells[u] != NO_ARGMAX:
                                    down = divide(cells[u], PW)
                                    across = int32(cells[u] - down * PW)
                                    y = int32(row - (r * PH + down) * SR)
                                    x = int32(column - (q * PW + across) * SC)
                                    i = divide(max(y, 0), DR)
                                    j = divide(max(x, 0), DC)
                                    if i * DR == y and j * DC == x and i < KH and j < KW:
                                        w = uint32(((i * KW + j) * CHUNK + f + u) * LINE + lane * V)
                                        if V == 4:
                                            factors = load4(shared, w)
                                            acc[0] += values[u] * factors[0]
                                            acc[1] += values[u] * factors[1]
                                            acc[2] += values[u] * factors[2]
                                            acc[3] += values[u] * factors[3]
                                        else:
                                            acc[0] += values[u] * shared[w]
        if live:
            place = np.int64(pixel) * ALL_CHANNELS + int32(group * CHANNELS + channel)
            if V == 4:
                store4(grad_inputs, place, acc[0], acc[1], acc[2], acc[3])
            else:
                grad_inputs[place] = acc[0]

    return conv_block_grad_inputs
