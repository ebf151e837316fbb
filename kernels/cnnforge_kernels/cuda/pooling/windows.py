"""Kernels of pooling with small windows that do not overlap: forward pass and gradients.

The stride is the window, so each input is in one window at most. A thread computes one window in
four neighbouring channels, or in one channel if their number is not a multiple of four. It starts
all of its loads before it uses the first value, so it waits for memory only once. A thread of a
gradient kernel writes the gradients of all inputs of its window.

The general kernels of ``general.py`` are slower: they check the bounds of each cell and wait for
its value. For a gradient, they visit all windows that may contain an input.
"""

from __future__ import annotations

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
from cnnforge_kernels.cuda.pooling.general import Pool

float32, int32, uint32 = np.float32, np.int32, np.uint32

# Maximum number of cells of a window. The values of a larger window would not fit into registers.
MAX_CELLS = 16


def side_by_side(c: Pool) -> bool:
    """Return whether the kernels of this module can compute the pooling."""
    return c.strides == c.window and c.window[0] * c.window[1] <= MAX_CELLS


def _reciprocal(cells: int) -> np.float32:
    """Return 1 / ``cells`` if ``cells`` is a power of two, otherwise 0.

    Only for a power of two does a product with this factor equal the exact quotient.
    """
    return float32(1 / cells if cells & (cells - 1) == 0 else 0)


@cache
def windows_forward(c: Pool) -> Kernel:
    """Make the kernel of the forward pass, with the arguments and grid of ``pool_forward``."""
    MAXIMUM = c.maximum
    PH, PW = c.window
    CELLS, RECIPROCAL = PH * PW, _reciprocal(PH * PW)
    V, THREADS = c.vector, c.threads

    @kernel(
        f"{c.name} windows",
        *("float32*",) * 2,
        "uint8*",
        *("int32",) * 8,
        threads=THREADS,
        identity=(c,),
    )
    def pool2d(inputs, outputs, argmax, height, width, rows, columns, top, left, lanes, tasks):
        acc = cuda.local.array(V, float32)
        cell = cuda.local.array(V, int32)
        values = cuda.local.array((CELLS, V), float32)
        task = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if task < tasks:
            pixel = divide(task, lanes)
            channel = int32((task - pixel * lanes) * V)
            channels = int32(lanes * V)
            line = divide(pixel, columns)
            column0 = int32((pixel - line * columns) * PW - left)
            image = divide(line, rows)
            row0 = int32((line - image * rows) * PH - top)
            source = np.int64(image) * (height * width * channels) + channel
            # Clamp the indices, so that the load for a cell outside the image reads inside it. The
            # next loop ignores this value.
            for i in range(PH):
                row = min(max(int32(row0 + i), int32(0)), int32(height - 1))
                for j in range(PW):
                    column = min(max(int32(column0 + j), int32(0)), int32(width - 1))
                    place = source + int32((row * width + column) * channels)
                    if V == 4:
                        x = load4(inputs, place)
                        values[i * PW + j, 0] = x[0]
                        values[i * PW + j, 1] = x[1]
                        values[i * PW + j, 2] = x[2]
                        values[i * PW + j, 3] = x[3]
                    else:
                        values[i * PW + j, 0] = inputs[place]
            cells = int32(0)
            for v in range(V):
                acc[v] = float32(-np.inf) if MAXIMUM else float32(0)
                cell[v] = int32(-1)
            for i in range(PH):
                for j in range(PW):
                    there = uint32(row0 + i) < uint32(height)
                    there = there and uint32(column0 + j) < uint32(width)
                    cells += int32(there)
                    for v in range(V):
                        value = values[i * PW + j, v]
                        if MAXIMUM:
                            # Choose the first NaN. Without a NaN choose the first maximum.
                            wins = acc[v] == acc[v] and not value <= acc[v]
                            if there and (cell[v] < 0 or wins):
                                acc[v] = value
                                cell[v] = int32(i * PW + j)
                        elif there:
                            acc[v] += value
            place = np.int64(pixel) * channels + channel
            if not MAXIMUM:
                if RECIPROCAL > 0 and cells == CELLS:
                    for v in range(V):
                        acc[v] *= RECIPROCAL
                else:
                    for v in range(V):
                        acc[v] = quotient(acc[v], cells)
            if V == 4:
                store4(outputs, place, acc[0], acc[1], acc[2], acc[3])
                if MAXIMUM:
                    store4_bytes(argmax, place, cell[0], cell[1], cell[2], cell[3])
            else:
                outputs[place] = acc[0]
                if MAXIMUM:
                    argmax[place] = cell[0]

    return pool2d


@cache
def windows_backward(c: Pool) -> Kernel:
    """Make the kernel of the gradient.

    Its arguments are those of ``pool_backward``, then the number of rows and columns of windows
    that cover all inputs. If the last inputs are in no output's window, there are more windows than
    outputs, and those inputs get zeros. A thread computes one window.
    """
    MAXIMUM = c.maximum
    PH, PW = c.window
    CELLS, RECIPROCAL = PH * PW, _reciprocal(PH * PW)
    V, THREADS = c.vector, c.threads

    @kernel(
        f"{c.name} windows",
        *("float32*",) * 2,
        "uint8*",
        *("int32",) * 10,
        threads=THREADS,
        identity=(c,),
    )
    def pool2d_grad(
        grads,
        grad_inputs,
        argmax,
        height,
        width,
        rows,
        columns,
        top,
        left,
        lanes,
        tasks,
        down,
        across,
    ):
        grad = cuda.local.array(V, float32)
        cell = cuda.local.array(V, int32)
        sent = cuda.local.array(V, float32)
        task = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if task < tasks:
            window = divide(task, lanes)
            channel = int32((task - window * lanes) * V)
            channels = int32(lanes * V)
            line = divide(window, across)
            column = int32(window - line * across)
            image = divide(line, down)
            row = int32(line - image * down)
            row0, column0 = int32(row * PH - top), int32(column * PW - left)
            for v in range(V):
                grad[v] = float32(0)
                cell[v] = int32(-1)
            if row < rows and column < columns:
                place = (np.int64(image) * rows + row) * columns + column
                place = place * channels + channel
                if V == 4:
                    x = load4(grads, place)
                    grad[0] = x[0]
                    grad[1] = x[1]
                    grad[2] = x[2]
                    grad[3] = x[3]
                    if MAXIMUM:
                        k = load4_bytes(argmax, place)
                        cell[0] = k[0]
                        cell[1] = k[1]
                        cell[2] = k[2]
                        cell[3] = k[3]
                else:
                    grad[0] = grads[place]
                    if MAXIMUM:
                        cell[0] = int32(argmax[place])
            if not MAXIMUM:
                cells = int32(min(row0 + PH, height) - max(row0, 0))
                cells *= int32(min(column0 + PW, width) - max(column0, 0))
                if RECIPROCAL > 0 and cells == CELLS:
                    for v in range(V):
                        grad[v] *= RECIPROCAL
                else:
                    for v in range(V):
                        grad[v] = quotient(grad[v], cells)
            target = np.int64(image) * (height * width * channels) + channel
            for i in range(PH):
                for j in range(PW):
                    there = uint32(row0 + i) < uint32(height)
                    if there and uint32(column0 + j) < uint32(width):
                        for v in range(V):
                            sent[v] = grad[v]
                            if MAXIMUM and cell[v] != i * PW + j:
                                sent[v] = float32(0)
                        place = target + int32(((row0 + i) * width + column0 + j) * channels)
                        if V == 4:
                            store4(grad_inputs, place, sent[0], sent[1], sent[2], sent[3])
                        else:
                            grad_inputs[place] = sent[0]

    return pool2d_grad
