"""Check the arrays of a call of ``launch.py``, and run a plan (kernels with grids) on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.cuda.runtime.arrays import View, view
from cnnforge_kernels.cuda.runtime.contiguous import contiguous_copy
from cnnforge_kernels.cuda.runtime.driver import driver, run, stream_handle

_BYTES = ("argmax",)


def _locate(name: str, array: Any) -> View:
    where = view(name, array, lambda value: driver().locate(value))
    allowed = (np.uint8, np.int32) if name in _BYTES else (np.float32,)
    if where.dtype.type not in allowed:
        expected = " or ".join(dtype.__name__ for dtype in allowed)
        raise ValueError(
            f"`{name}` must be {expected} on a device. Received: {where.dtype} {where.shape}"
        )
    return where


def contiguous(name: str, array: Any, stream: Any) -> View:
    """Return the ``View`` of an array on a device, or of a C-contiguous copy if it needs one.

    Raises:
        ValueError: The value is not an array on a device, its dtype is not float32 (uint8 or int32
            for ``argmax``), or it is too large to copy.
    """
    return contiguous_copy(_locate(name, array), stream)


def views(**arrays: Any) -> dict[str, View]:
    """Return the ``View`` of each array, by name. Arguments that are ``None`` are left out.

    Raises:
        ValueError: A value is not an array on a device, has a wrong dtype (see ``contiguous``) or
            is not C-contiguous, or the arrays are on several devices.
    """
    found = {}
    for name, array in arrays.items():
        if array is None:
            continue
        where = _locate(name, array)
        if where.strides is not None:
            raise ValueError(
                f"`{name}` must be C-contiguous. Received: strides of {where.strides} elements for "
                f"the shape {where.shape}. Pass a contiguous array."
            )
        if found and where.device != next(iter(found.values())).device:
            first = next(iter(found))
            raise ValueError(
                f"All arrays must be on one device. Received: `{first}` on device "
                f"{found[first].device} and `{name}` on device {where.device}. Copy one of them."
            )
        found[name] = where
    return found


def aligned(arrays: dict[str, View]) -> bool:
    """Whether each array starts at a multiple of 16 bytes (of 4 bytes for an array of uint8)."""
    return not any(
        array.pointer % (4 if array.dtype.itemsize == 1 else 16) for array in arrays.values()
    )


def run_on(plan: Any, arrays: dict[str, View], written: tuple[str, ...], stream: Any) -> None:
    """Run a plan on arrays, after a check that the arrays in ``written`` are writeable.

    Raises:
        ValueError: An array in ``written`` is read-only.
    """
    for name in written:
        if not arrays[name].writeable:
            raise ValueError(f"`{name}` must be writeable. Received: a read-only array.")
    run(plan, arrays, stream_handle(stream))


def run_with_bias(plan: Any, arrays: dict[str, View], filters: int, stream: Any) -> None:
    """Run a plan that writes ``grad_weights`` and ``grad_bias``.

    If the caller's ``grad_bias`` is empty, the plan writes the gradient to temporary memory.
    """
    if arrays["grad_bias"].size == filters:
        run_on(plan, arrays, ("grad_weights", "grad_bias"), stream)
        return
    device, handle = arrays["grad_weights"].device, stream_handle(stream)
    memory = driver().allocate(4 * filters, device, handle)
    spare = View(memory.pointer, (filters,), np.dtype(np.float32), device)
    try:
        run_on(plan, arrays | {"grad_bias": spare}, ("grad_weights",), stream)
    finally:
        memory.free()
