"""The second stage of a sum over slices, in the order of the slices."""

from __future__ import annotations

from functools import cache

import numpy as np

from cnnforge_kernels.cuda.jit import Kernel, cuda, kernel

float32, int32 = np.float32, np.int32

THREADS = 128


@cache
def reduce_slices(threads: int = THREADS) -> Kernel:
    """Sum the slices of a scratch array (S, W + F) into ``grad_weights`` (W,), ``grad_bias`` (F,).

    Arguments: scratch, grad_weights, grad_bias; W; W + F; S. Grid: ((W + F) / threads,).
    """
    THREADS = threads

    @kernel(
        "reduce_slices", *("float32*",) * 3, *("int32",) * 3, threads=threads, identity=(threads,)
    )
    def reduce_slices(scratch, grad_weights, grad_bias, weights, floats, slices):
        e = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if e < floats:
            value = float32(0)
            for s in range(slices):
                value += scratch[np.int64(s) * floats + e]
            if e < weights:
                grad_weights[e] = value
            else:
                grad_bias[int32(e - weights)] = value

    return reduce_slices
