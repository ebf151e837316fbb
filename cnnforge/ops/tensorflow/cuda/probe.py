"""Compute the op of `self_test.py` on a CUDA device.

The op names this module as its `cuda` (see `ArrayOp`).

Experimental: not yet run on a device.

The kernel is written in PTX, which the driver compiles. So the self-test does not need Numba's CUDA
compiler.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

# Each thread with tid.x < count computes scratch[tid.x] = inputs[tid.x] * factor[0], and then
# outputs[tid.x] = scratch[tid.x] + offset.
PTX = b"""
.version 6.4
.target sm_75
.address_size 64
.visible .entry cnnforge_affine(
    .param .u64 inputs, .param .u64 factor, .param .u64 outputs, .param .u64 scratch,
    .param .u32 count, .param .f32 offset)
{
    .reg .pred %p;
    .reg .b32 %r<3>;
    .reg .f32 %f<5>;
    .reg .b64 %a<6>;
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p, %r2, %r1;
    @%p bra done;
    mul.wide.u32 %a5, %r2, 4;
    ld.param.u64 %a1, [inputs];
    add.s64 %a1, %a1, %a5;
    ld.param.u64 %a2, [factor];
    ld.param.u64 %a3, [outputs];
    add.s64 %a3, %a3, %a5;
    ld.param.u64 %a4, [scratch];
    add.s64 %a4, %a4, %a5;
    ld.global.f32 %f1, [%a1];
    ld.global.f32 %f2, [%a2];
    mul.f32 %f3, %f1, %f2;
    st.global.f32 [%a4], %f3;
    ld.global.f32 %f4, [%a4];
    ld.param.f32 %f1, [offset];
    add.f32 %f4, %f4, %f1;
    st.global.f32 [%a3], %f4;
done:
    ret;
}
\0"""
_THREADS = 32
_SCRATCH = 1 << 56


@dataclass(frozen=True)
class _Launch:
    function: int
    grid: tuple[int, int, int]
    block: int
    shared: int
    arguments: tuple[Any, ...]


_recorded = threading.local()


def record(call: Callable[[], None]) -> tuple[list[Any], list[tuple[int, int]]]:
    """Run a call of `affine` without launching its kernel.

    Return two lists: the recorded launches, and the temporary memory, as (address, bytes).
    """
    _recorded.launches = []
    try:
        call()
        return _recorded.launches, [(_SCRATCH, 4 * _THREADS)]
    finally:
        _recorded.launches = None


def affine(inputs: Any, factor: Any, offset: float, outputs: Any, stream: int) -> None:
    """Compute `self_test.affine` for up to 32 elements; within `record`, only record the launch."""
    recorded = getattr(_recorded, "launches", None)
    scratch = outputs.pointer if recorded is None else _SCRATCH
    count, last = np.uint32(inputs.shape[0]), np.float32(offset)
    arguments = (inputs.pointer, factor.pointer, outputs.pointer, scratch, count, last)
    if recorded is not None:
        recorded.append(_Launch(_function(), (1, 1, 1), _THREADS, 0, arguments))
        return
    kinds = [*[ctypes.c_uint64] * 4, ctypes.c_uint32, ctypes.c_float]
    values = [kind(number) for kind, number in zip(kinds, arguments, strict=True)]
    places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, *[ctypes.c_uint] * 7, *[ctypes.c_void_p] * 3
    )
    launch = kind(launch_function())
    _check("cuLaunchKernel", launch(_function(), 1, 1, 1, _THREADS, 1, 1, 0, stream, places, None))


@cache
def _function() -> int:
    """Load the kernel into the context of the calling thread, and return its address."""
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check("cuModuleLoadData", _driver().cuModuleLoadData(ctypes.byref(module), PTX))
    name = b"cnnforge_affine"
    found = _driver().cuModuleGetFunction(ctypes.byref(function), module, name)
    _check("cuModuleGetFunction", found)
    return int(function.value or 0)


def _check(function: str, error: int) -> None:
    if error:
        raise RuntimeError(f"{function} returned the CUDA error {error}")


def launch_function() -> int:
    """Return the address of `cuLaunchKernel`.

    Raises:
        OSError: The driver is not installed.
    """
    return int(ctypes.cast(_driver().cuLaunchKernel, ctypes.c_void_p).value or 0)


def synchronize() -> None:
    """Wait until the current device has finished all its work.

    Raises:
        RuntimeError: A part of the work has failed.
    """
    _check("cuCtxSynchronize", _driver().cuCtxSynchronize())


@cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")
