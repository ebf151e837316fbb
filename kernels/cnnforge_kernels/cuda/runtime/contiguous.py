"""Make C-contiguous copies of arrays on a device, on the caller's stream."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide
from cnnforge_kernels.cuda.runtime.arrays import View
from cnnforge_kernels.cuda.runtime.driver import empty, run, stream_handle
from cnnforge_kernels.cuda.runtime.plans import Plan, blocks, launch

int32 = np.int32

THREADS = 128
_MAX_AXES = 4


@cache
def copy_kernel(dtype: str) -> Kernel:
    """Make the kernel that copies an array of four axes, element by element.

    The arguments of the kernel are the source and the target, the lengths of the last three axes,
    the strides of the source along all four axes in elements, and the number of elements. The grid
    has one dimension, with enough blocks for one thread per element.
    """

    @kernel(
        f"dense_copy {dtype}",
        *(f"{dtype}*",) * 2,
        *("int32",) * 3,
        *("int64",) * 4,
        "int32",
        threads=THREADS,
    )
    def copy(source, target, n1, n2, n3, s0, s1, s2, s3, count):
        e = int32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
        if e < count:
            line = divide(e, n3)
            plane = divide(line, n2)
            image = divide(plane, n1)
            target[e] = source[
                image * s0
                + int32(plane - image * n1) * s1
                + int32(line - plane * n2) * s2
                + int32(e - line * n3) * s3
            ]

    return copy


def contiguous_copy(where: View, stream: Any) -> View:
    """Return ``where`` itself if it is C-contiguous, otherwise the ``View`` of a C-contiguous copy.

    Raises:
        ValueError: The array is too large for the kernel or has more than four axes.
    """
    if where.strides is None:
        return where
    if where.ndim > _MAX_AXES:
        raise ValueError(f"Arrays have at most {_MAX_AXES} axes. Received: shape {where.shape}")
    missing = _MAX_AXES - where.ndim
    shape, strides = (1,) * missing + where.shape, (0,) * missing + where.strides
    plan = Plan(
        (
            launch(
                copy_kernel(where.dtype.name),
                (blocks(where.size, THREADS),),
                *("source", "target"),
                *(*shape[1:], *strides, where.size),
            ),
        )
    )
    handle = stream_handle(stream)
    made = empty(where.shape, where.dtype, where.device, handle)
    copy = View(made.pointer, where.shape, where.dtype, where.device, True, made)
    run(plan, {"source": where, "target": copy}, handle)
    return copy
