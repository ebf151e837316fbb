"""Depthwise convolution: kernels of the forward pass and of the gradient of the inputs.

Each group has one input channel, so the sum of an output runs only over the taps of the window.
There are few products per loaded value, so memory traffic decides the time. Neighbouring threads
compute neighbouring channels, which are consecutive in memory. A thread computes four channels if
each channel has one filter and the number of channels is a multiple of four. Otherwise it computes
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide, load4, store4

float32, int32, uint32 = np.float32, np.int32, np.uint32

THREADS = 128
_MAX_COLUMNS = 24


@dataclass(frozen=True)
class Depthwise:
    """Constants that a depthwise kernel is compiled for.

    ``channels`` is the number of input channels. Each of them has ``multiplier`` filters.
    """

    window: tuple[int, int]
    channels: int
    multiplier: int = 1
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    bias: bool = False
    relu: bool = False
    backward: bool = False
    aligned: bool = True
    threads: int = THREADS

    @property
    def vector(self) -> int:
        """Number of channels per thread."""
        return 4 if self.aligned and self.multiplier == 1 and self.channels % 4 == 0 else 1

    @property
    def cells(self) -> int:
        """Number of neighbouring outputs that a thread of the forward pass computes."""
        return 1 if self.patch(2) > _MAX_COLUMNS else 2 if self.patch(4) > _MAX_COLUMNS else 4

    def patch(self, cells: int) -> int:
        """Number of input columns that a row of taps reads for ``cells`` neighbouring outputs."""
        return (cells - 1) * self.strides[1] + (self.window[1] - 1) * self.dilation[1] + 1

    @property
    def name(self) -> str:
        """Name of the kernel, such as ``"depthwise_conv2d 3x3x32x1"``."""
        op = "depthwise_grad_inputs" if self.backward else "depthwise_conv2d"
        text = f"{op} {self.window[0]}x{self.window[1]}x{self.channels}x{self.multiplier}"
        if self.strides != (1, 1):
            text += f" strides {self.strides[0]}x{self.strides[1]}"
        if self.dilation != (1, 1):
            text += f" dilation {self.dilation[0]}x{self.dilation[1]}"
        text += (" bias" if self.bias else "") + (" relu" if self.relu else "")
        text += f" threads {self.threads}" if self.threads != THREADS else ""
        return text if self.aligned else f"{text} unaligned"


@cache
def depthwise(c: Depthwise) -> Kernel:
    """Make the kernel of the forward pass.

    Its arguments are inputs, weights, bias and outputs; then height and width of the inputs, rows
    and columns of the outputs, top and left padding, and the number of tasks. A task is the work of
    one thread: ``c.vector`` filters of ``c.cells`` neighbouring outputs. The grid is (tasks /
    threads,).
    """
    BIAS, RELU = c.bias, c.relu
    KH, KW = c.window
    SR, SC = c.strides
    DR, DC = c.dilation
    CHANNELS, FILTERS, MULTIPLIER = c.channels, c.channels * c.multiplier, c.multiplier
    V, P, WIDTH, THREADS = c.vector, c.cells, c.patch(c.cells), c.threads
    LANES = FILTERS // V
    PATCH, ACCUMULATORS = WIDTH * V, P * V

    @kernel(c.name, *("float32*",) * 4, *("int32",) * 7, threads=THREADS, identity=(c,))
    def depthwise_conv2d(
        inputs, weights, bias, outputs, height, width, rows, columns, top, left, tasks
    ):
        acc = cuda.local.array(ACCUMULATORS, float32)
        patch = cuda.local.array(PATCH, float32)
        factors = cuda.local.array(V, float32)
        task = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if task < tasks:
            tile = divide(task, LANES)
            filter0 = int32((task - tile * LANES) * V)
            channel = divide(filter0, MULTIPLIER)
            across = divide(columns + P - 1, P)
            line = divide(tile, across)
            column0 = int32((tile - line * across) * P)
            image = divide(line, rows)
            row0 = int32((line - image * rows) * SR - top)
            source = np.int64(image) * (height * width * CHANNELS) + channel
            for a in range(ACCUMULATORS):
                acc[a] = float32(0)
            for i in range(KH):
                row = int32(row0 + i * DR)
                if uint32(row) < uint32(height):
                    for b in range(WIDTH):
                        column = int32(column0 * SC - left + b)
                        for v in range(V):
                            patch[b * V + v] = float32(0)
                        if uint32(column) < uint32(width):
                            place = source + int32((row * width + column) * CHANNELS)
                            if V == 4:
                                x = load4(inputs, place)
                                patch[b * 4] = x[0]
                                patch[b * 4 + 1] = x[1]
                                patch[b * 4 + 2] = x[2]
                                patch[b * 4 + 3] = x[3]
                            else:
                                patch[b] = inputs[place]
                    for j in range(KW):
                        place = int32((i * KW + j) * FILTERS + filter0)
                        if V == 4:
                            w = load4(weights, place)
                            factors[0] = w[0]
                            factors[1] = w[1]
                            factors[2] = w[2]
                            factors[3] = w[3]
                        else:
                            factors[0] = weights[place]
                        for p in range(P):
                            for v in range(V):
                                acc[p * V + v] += patch[(p * SC + j * DC) * V + v] * factors[v]
            for v in range(V):
                factors[v] = float32(0)
                if BIAS:
                    factors[v] = bias[filter0 + v]
            for p in range(P):
                for v in range(V):
                    value = acc[p * V + v]
                    if BIAS:
                        value += factors[v]
                    if RELU and value < float32(0):
                        value = float32(0)
                    acc[p * V + v] = value
                if column0 + p < columns:
                    place = (np.int64(line) * columns + column0 + p) * FILTERS + filter0
                    if V == 4:
                        t = p * 4
                        store4(outputs, place, acc[t], acc[t + 1], acc[t + 2], acc[t + 3])
                    else:
                        outputs[place] = acc[p]

    return depthwise_conv2d


@cache
def depthwise_backward(c: Depthwise) -> Kernel:
    """Make the kernel of the gradient of the inputs.

    Its arguments are grad_outputs, mask (outputs of the forward pass, for ``relu``), weights and
    grad_inputs; then the same numbers as for ``depthwise``. A task is the work of one thread:
    ``c.vector`` channels of one input pixel. The grid is (tasks / threads,).
    """
    RELU = c.relu
    KH, KW = c.window
    SR, SC = c.strides
    DR, DC = c.dilation
    CHANNELS, FILTERS, MULTIPLIER = c.channels, c.channels * c.multiplier, c.multiplier
    V, THREADS = c.vector, c.threads
    LANES = CHANNELS // V

    @kernel(c.name, *("float32*",) * 4, *("int32",) * 7, threads=THREADS, identity=(c,))
    def depthwise_grad_inputs(
        grads, mask, weights, grad_inputs, height, width, rows, columns, top, left, tasks
    ):
        acc = cuda.local.array(V, float32)
        task = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if task < tasks:
            pixel = divide(task, LANES)
            channel = int32((task - pixel * LANES) * V)
            line = divide(pixel, width)
            column0 = int32(pixel - line * width + left)
            image = divide(line, height)
            row0 = int32(line - image * height + top)
            source = np.int64(image) * (rows * columns * FILTERS) + channel * MULTIPLIER
            for v in range(V):
                acc[v] = float32(0)
            for i in range(KH):
                down = int32(row0 - i * DR)
                row = divide(max(down, 0), SR)
                if down >= 0 and row * SR == down and row < rows:
                    for j in range(KW):
                        right = int32(column0 - j * DC)
                        column = divide(max(right, 0), SC)
                        if right >= 0 and column * SC == right and column < columns:
                            place = source + int32((row * columns + column) * FILTERS)
                            tap = int32((i * KW + j) * FILTERS + channel * MULTIPLIER)
                            if V == 4:
                                g = load4(grads, place)
                                w = load4(weights, tap)
                                if RELU:
                                    m = load4(mask, place)
                                    if m[0] > float32(0):
                                        acc[0] += g[0] * w[0]
                                    if m[1] > float32(0):
                                        acc[1] += g[1] * w[1]
                                    if m[2] > float32(0):
                                        acc[2] += g[2] * w[2]
                                    if m[3] > float32(0):
                                        acc[3] += g[3] * w[3]
                                else:
                                    acc[0] += g[0] * w[0]
                                    acc[1] += g[1] * w[1]
                                    acc[2] += g[2] * w[2]
                                    acc[3] += g[3] * w[3]
                            else:
                                for f in range(MULTIPLIER):
                                    g1 = grads[place + f]
                                    if RELU and not mask[place + f] > float32(0):
                                        g1 = float32(0)
                                    acc[0] += g1 * weights[int32(tap + f)]
            place = np.int64(pixel) * CHANNELS + channel
            if V == 4:
                store4(grad_inputs, place, acc[0], acc[1], acc[2], acc[3])
            else:
                grad_inputs[place] = acc[0]

    return depthwise_grad_inputs
