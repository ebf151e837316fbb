"""Kernels of 2D max, average and global average pooling: forward pass and gradients.

A thread computes one output (in a gradient, one input) in four neighbouring channels. If the number
of channels is not a multiple of four, it computes one channel. A cell in the padding is never the
maximum, and an average does not count it. In a gradient, the thread of an input adds the gradients
from all windows that contain the input, in a fixed order and without atomics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import (
    divide,
    load4,
    load4_bytes,
    quotient,
    store4,
    store4_bytes,
)

float32, int32, uint32 = np.float32, np.int32, np.uint32

THREADS = 128


@dataclass(frozen=True)
class Pool:
    """Constants that a pooling kernel is compiled for.

    Attributes:
        maximum: Whether it is max pooling; otherwise it is average pooling.
        window: Rows and columns of the window.
        strides: Strides along rows and columns.
        vector: Number of channels per thread, 4 or 1.
        backward: Whether the kernel computes the gradient; otherwise it computes the forward pass.
        threads: Number of threads per block.
    """

    maximum: bool
    window: tuple[int, int]
    strides: tuple[int, int]
    vector: int
    backward: bool = False
    threads: int = THREADS

    @property
    def wide(self) -> bool:
        """Whether the argmax is int32 because a byte is too small; otherwise it is uint8."""
        return self.window[0] * self.window[1] > 256

    @property
    def name(self) -> str:
        """Name of the kernel, such as ``"max_pool2d 2x2 strides 2x2 vector 4"``."""
        op = "max_pool2d" if self.maximum else "average_pool2d"
        text = f"{op}{'_grad' if self.backward else ''} {self.window[0]}x{self.window[1]}"
        text += f" strides {self.strides[0]}x{self.strides[1]} vector {self.vector}"
        return text if self.threads == THREADS else f"{text} threads {self.threads}"


@cache
def pool_forward(c: Pool) -> Kernel:
    """Make the kernel of the forward pass.

    Its arguments are inputs, outputs and argmax (for ``maximum``); then height and width of the
    inputs, rows and columns of the outputs, top and left padding, channels / ``vector``, and the
    number of tasks, one per thread. The grid is (tasks / threads,).
    """
    MAXIMUM, WIDE = c.maximum, c.wide
    PH, PW = c.window
    SR, SC = c.strides
    V, THREADS = c.vector, c.threads

    @kernel(
        c.name,
        *("float32*",) * 2,
        "int32*" if WIDE else "uint8*",
        *("int32",) * 8,
        threads=THREADS,
        identity=(c,),
    )
    def pool2d(inputs, outputs, argmax, height, width, rows, columns, top, left, lanes, tasks):
        acc = cuda.local.array(V, float32)
        cell = cuda.local.array(V, int32)
        values = cuda.local.array(V, float32)
        task = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if task < tasks:
            pixel = divide(task, lanes)
            channel = int32((task - pixel * lanes) * V)
            channels = int32(lanes * V)
            line = divide(pixel, columns)
            column0 = int32((pixel - line * columns) * SC - left)
            image = divide(line, rows)
            row0 = int32((line - image * rows) * SR - top)
            source = np.int64(image) * (height * width * channels) + channel
            cells = int32(0)
            for v in range(V):
                acc[v] = float32(-np.inf) if MAXIMUM else float32(0)
                cell[v] = int32(-1)
            for i in range(PH):
                row = int32(row0 + i)
                if uint32(row) < uint32(height):
                    for j in range(PW):
                        column = int32(column0 + j)
                        if uint32(column) < uint32(width):
                            cells += int32(1)
                            place = source + int32((row * width + column) * channels)
                            if V == 4:
                                x = load4(inputs, place)
                                values[0] = x[0]
                                values[1] = x[1]
                                values[2] = x[2]
                                values[3] = x[3]
                            else:
                                values[0] = inputs[place]
                            for v in range(V):
                                value = values[v]
                                if MAXIMUM:
                                    # Choose the first NaN. Without a NaN choose the first maximum.
                                    if (
                                        cell[v] < 0
                                        or value > acc[v]
                                        or (value != value and acc[v] == acc[v])
                                    ):
                                        acc[v] = value
                                        cell[v] = int32(i * PW + j)
                                else:
                                    acc[v] += value
            place = np.int64(pixel) * channels + channel
            if not MAXIMUM:
                for v in range(V):
                    acc[v] = quotient(acc[v], cells)
            if V == 4:
                store4(outputs, place, acc[0], acc[1], acc[2], acc[3])
            else:
                outputs[place] = acc[0]
            if MAXIMUM:
                if V == 4 and not WIDE:
                    store4_bytes(argmax, place, cell[0], cell[1], cell[2], cell[3])
                else:
                    for v in range(V):
                        argmax[place + v] = cell[v]

    return pool2d


@cache
def pool_backward(c: Pool) -> Kernel:
    """Make the kernel of the gradient.

    Its arguments are grad_outputs, grad_inputs and argmax (for ``maximum``); then the same numbers
    as for ``pool_forward``. A task is the work of one thread: ``vector`` channels of one input. The
    grid is (tasks / threads,).
    """
    MAXIMUM, WIDE = c.maximum, c.wide
    PH, PW = c.window
    SR, SC = c.strides
    V, THREADS = c.vector, c.threads

    @kernel(
        c.name,
        *("float32*",) * 2,
        "int32*" if WIDE else "uint8*",
        *("int32",) * 8,
        threads=THREADS,
        identity=(c,),
    )
    def pool2d_grad(
        grads, grad_inputs, argmax, height, width, rows, columns, top, left, lanes, tasks
    ):
        acc = cuda.local.array(V, float32)
        cell = cuda.local.array(V, int32)
        values = cuda.local.array(V, float32)
        task = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if task < tasks:
            pixel = divide(task, lanes)
            channel = int32((task - pixel * lanes) * V)
            channels = int32(lanes * V)
            line = divide(pixel, width)
            column = int32(pixel - line * width + left)
            image = divide(line, height)
            row = int32(line - image * height + top)
            source = np.int64(image) * (rows * columns * channels) + channel
            # Range of the outputs r whose windows contain this input:
            # r * stride <= row < r * stride + window.
            first_row = divide(max(row - PH + SR, 0), SR)
            last_row = min(divide(row, SR), rows - 1)
            first_column = divide(max(column - PW + SC, 0), SC)
            last_column = min(divide(column, SC), columns - 1)
            for v in range(V):
                acc[v] = float32(0)
            for r in range(first_row, last_row + 1):
                for q in range(first_column, last_column + 1):
                    place = source + int32((r * columns + q) * channels)
                    if V == 4:
                        x = load4(grads, place)
                        values[0] = x[0]
                        values[1] = x[1]
                        values[2] = x[2]
                        values[3] = x[3]
                    else:
                        values[0] = grads[place]
                    if MAXIMUM:
                        if V == 4 and not WIDE:
                            k = load4_bytes(argmax, place)
                            cell[0] = k[0]
                            cell[1] = k[1]
                            cell[2] = k[2]
                            cell[3] = k[3]
                        else:
                            for v in range(V):
                                cell[v] = int32(argmax[place + v])
                        here = int32((row - r * SR) * PW + column - q * SC)
                        for v in range(V):
                            if cell[v] == here:
                                acc[v] += values[v]
                    else:
                        y, x = int32(r * SR - top), int32(q * SC - left)
                        down = int32(min(y + PH, height) - max(y, 0))
                        across = int32(min(x + PW, width) - max(x, 0))
                        for v in range(V):
                            acc[v] += quotient(values[v], down * across)
            place = np.int64(pixel) * channels + channel
            if V == 4:
                store4(grad_inputs, place, acc[0], acc[1], acc[2], acc[3])
            else:
                grad_inputs[place] = acc[0]

    return pool2d_grad


@cache
def global_average(lanes: int, threads: int = THREADS) -> Kernel:
    """Make the kernel of the mean over all pixels of an image.

    A block computes ``lanes`` channels of one image. Its arguments are inputs (N, P, C), outputs
    (N, C), P and C. The grid is (N, C / lanes).
    """
    LANES, THREADS = lanes, threads
    COPIES = threads // lanes

    @kernel(
        f"global_average_pool2d lanes {lanes}",
        *("float32*",) * 2,
        *("int32",) * 2,
        threads=threads,
        identity=(lanes, threads),
    )
    def global_average_pool2d(inputs, outputs, pixels, channels):
        shared = cuda.shared.array(THREADS, float32)
        thread = int32(cuda.threadIdx.x)
        copy = divide(thread, LANES)
        channel = int32(cuda.blockIdx.y * LANES + thread - copy * LANES)
        source = np.int64(cuda.blockIdx.x) * (pixels * channels) + channel
        total = float32(0)
        if channel < channels:
            for pixel in range(copy, pixels, COPIES):
                total += inputs[source + int32(pixel * channels)]
        shared[uint32(thread)] = total
        cuda.syncthreads()
        if copy == 0 and channel < channels:
            total = float32(0)
            for k in range(COPIES):
                total += shared[uint32(k * LANES + thread)]
            outputs[np.int64(cuda.blockIdx.x) * channels + channel] = quotient(total, pixels)

    return global_average_pool2d


@cache
def global_average_backward(vector: int, threads: int = THREADS) -> Kernel:
    """Make the kernel of the gradient of the mean over P pixels.

    Each pixel gets the gradient of the mean, divided by P. The arguments are grad_outputs (N, C),
    grad_inputs (N, P, C), P, channels / ``vector``, and the number of tasks, one per thread. The
    grid is (tasks / threads,).
    """
    V, THREADS = vector, threads

    @kernel(
        f"global_average_pool2d_grad vector {vector}",
        *("float32*",) * 2,
        *("int32",) * 3,
        threads=threads,
        identity=(vector, threads),
    )
    def global_average_pool2d_grad(grads, grad_inputs, pixels, lanes, tasks):
        task = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if task < tasks:
            pixel = divide(task, lanes)
            channel = int32((task - pixel * lanes) * V)
            channels = int32(lanes * V)
            source = np.int64(divide(pixel, pixels)) * channels + channel
            place = np.int64(pixel) * channels + channel
            if V == 4:
                g = load4(grads, source)
                store4(
                    grad_inputs,
                    place,
                    quotient(g[0], pixels),
                    quotient(g[1], pixels),
                    quotient(g[2], pixels),
                    quotient(g[3], pixels),
                )
            else:
                grad_inputs[place] = quotient(grads[source], pixels)

    return global_average_pool2d_grad
