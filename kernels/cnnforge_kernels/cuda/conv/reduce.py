"""Kernel that adds the partial sums of the gradients of weights and bias, in a fixed order.

The kernels of these gradients cut the sum over all pixels into slices. They write the partial sums
of each slice to a scratch array. If there are hundreds of slices and few sums, one thread per sum
would wait for memory hundreds of times. So several threads share the slices of a sum and add their
results in a tree.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide
from cnnforge_kernels.cuda.runtime.plans import Launch, blocks, launch

float32, int32, uint32, int64 = np.float32, np.int32, np.uint32, np.int64

THREADS = 256
# Maximum number of threads per sum, and minimum number of slices per thread. If 32 threads share
# each sum, a block has 8 neighbouring sums. So it reads 32 bytes of each slice, which are one
# memory sector. More threads per sum would read parts of sectors.
_MAX_SHARES, _MIN_SLICES = 32, 4


def reduction(weights: int, floats: int, slices: int) -> Launch:
    """Make the launch that sums the slices of ``scratch`` into ``grad_weights`` and ``grad_bias``.

    Args:
        weights: Number of floats per slice that belong to ``grad_weights``.
        floats: Number of floats per slice: those of ``grad_weights``, then those of ``grad_bias``.
        slices: Number of slices.
    """
    shares = shares_of(slices)
    kernel = reduce_slices(shares)
    return launch(
        kernel,
        (blocks(floats, kernel.threads // shares),),
        *("scratch", "grad_weights", "grad_bias"),
        *(weights, floats, slices),
    )


def shares_of(slices: int) -> int:
    """Return the number of threads per sum, which is a power of two.

    If there are several threads, each of them adds at least four slices.
    """
    return min(_MAX_SHARES, 1 << max(slices // _MIN_SLICES, 1).bit_length() - 1)


@cache
def reduce_slices(shares: int = 1) -> Kernel:
    """Make the kernel that sums S slices of W + F floats.

    The first W sums go to ``grad_weights``, and the other F go to ``grad_bias``. ``shares`` is the
    number of threads per sum.

    Its arguments are scratch, grad_weights, grad_bias, W, W + F and S. The grid is
    ((W + F) / (threads / shares),).
    """
    SHARES, SUMS = shares, THREADS // shares
    HALF = THREADS // 2
    ALL = THREADS

    @kernel(
        "reduce_slices" + f" shares {shares}" * (shares > 1),
        *("float32*",) * 3,
        *("int32",) * 3,
        threads=THREADS,
        identity=(shares,),
    )
    def reduce_slices(scratch, grad_weights, grad_bias, weights, floats, slices):
        thread = int32(cuda.threadIdx.x)
        share = divide(thread, SUMS)
        e = int32(cuda.blockIdx.x * SUMS + thread - share * SUMS)
        value = float32(0)
        if e < floats:
            place = int64(share) * floats + e
            for _ in range(share, slices, SHARES):
                value += scratch[place]
                place += int64(floats) * SHARES
        if SHARES > 1:
            shared = cuda.shared.array(ALL, float32)
            shared[uint32(thread)] = value
            half = int32(HALF)
            while half >= SUMS:
                cuda.syncthreads()
                if thread < half:
                    shared[uint32(thread)] += shared[uint32(thread + half)]
                half = int32(half >> 1)
            value = shared[uint32(thread)]
        if share == 0 and e < floats:
            if e < weights:
                grad_weights[e] = value
            else:
                grad_bias[int32(e - weights)] = value

    return reduce_slices
