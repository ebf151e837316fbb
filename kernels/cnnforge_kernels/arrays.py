"""Check and allocate the arrays of a call: NumPy arrays, or arrays on a CUDA device.

The functions of ``launch`` use these functions, and so accept both. The CUDA modules are imported
when a call first gets an array on a device.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from cnnforge_kernels.cuda.runtime.arrays import View, is_device_array

NONE = np.zeros(0, np.float32)
PRECISIONS = ("float32", "tf32", "bfloat16")


@cache
def _cuda() -> Any:
    """Import and return the CUDA functions.

    The import is not at the top, because it takes half a second, which a user of the CPU saves.
    """
    from cnnforge_kernels.cuda import launch

    return launch


def array(name: str, value: Any, rank: int, stream: Any = None) -> Any:
    """Return ``value`` as a C-contiguous float32 array: a NumPy array, or a ``View`` on a device.

    An array that is not C-contiguous is copied, on a device as a part of ``stream``.

    Raises:
        ValueError: the value is not a float32 array of that rank.
    """
    if is_device_array(value):
        found = _cuda().contiguous(name, value, stream)
        if found.ndim != rank:
            raise ValueError(
                f"`{name}` must be a float32 array of rank {rank}. "
                f"Received: {found.dtype} {found.shape}"
            )
        return found
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim != rank:
        got = (
            f"{value.dtype} {value.shape}"
            if isinstance(value, np.ndarray)
            else type(value).__name__
        )
        raise ValueError(f"`{name}` must be a float32 NumPy array of rank {rank}. Received: {got}")
    return np.ascontiguousarray(value)


def optional(name: str, value: Any, rank: int, stream: Any = None) -> Any:
    """Return what ``array`` returns, or an empty array if ``value`` is ``None``."""
    return NONE if value is None else array(name, value, rank, stream)


def argmax_array(value: Any, stream: Any = None) -> Any:
    """Return the argmax of a pool as a C-contiguous array, on the device if it is there."""
    if is_device_array(value):
        return _cuda().contiguous("argmax", value, stream)
    return np.ascontiguousarray(value)


def empty(near: tuple[Any, ...], shape: tuple[int, ...], dtype: Any, stream: Any) -> Any:
    """Return an uninitialised array, on the device of the arrays ``near`` if they are on one."""
    for other in near:
        if isinstance(other, View):
            from cnnforge_kernels.cuda.runtime.driver import empty as device_empty
            from cnnforge_kernels.cuda.runtime.driver import stream_handle

            made = device_empty(shape, dtype, other.device, stream_handle(stream))
            return View(made.pointer, shape, made.dtype, made.device, True, made)
    return np.empty(shape, dtype)


def out(
    name: str,
    given: Any,
    shape: tuple[int, ...],
    inputs: tuple[Any, ...] = (),
    dtype: Any = np.float32,
    stream: Any = None,
) -> Any:
    """Return the array to write to: ``given``, or a new array if ``given`` is ``None``.

    Raises:
        ValueError: ``given`` has another shape or dtype, is not C-contiguous, is read-only, or
            overlaps an input.
    """
    if given is None:
        return empty(inputs, shape, dtype, stream)
    if is_device_array(given):
        found = _cuda().views(**{name: given})[name]
        fits = found.shape == shape and found.dtype == dtype and found.writeable
        overlaps = any(isinstance(other, View) and found.overlaps(other) for other in inputs)
    else:
        found = given
        fits = (
            isinstance(given, np.ndarray)
            and given.shape == shape
            and given.dtype == dtype
            and given.flags.c_contiguous
            and given.flags.writeable
        )
        overlaps = fits and any(
            isinstance(other, np.ndarray) and np.shares_memory(given, other) for other in inputs
        )
    if not fits:
        got = f"{given.dtype} {tuple(given.shape)}" if hasattr(given, "shape") else type(given)
        raise ValueError(
            f"`{name}` must be a writeable C-contiguous {np.dtype(dtype)} array of shape {shape}. "
            f"Received: {got}"
        )
    if overlaps:
        raise ValueError(f"`{name}` must not overlap an input. Pass a buffer of its own.")
    return found


def call(function: Any, *arguments: Any, stream: Any = None, precision: str = "float32") -> None:
    """Run a function for the CPU, or for arrays on a device the CUDA function of the same name.

    Args:
        function: function for the CPU.
        *arguments: arguments of the function; arrays come from ``array`` and ``out``.
        stream: stream for arrays on a device: its address, an object that has one, or ``None``.
        precision: precision of the operands; for NumPy arrays, ``"float32"``.

    Raises:
        ValueError: some arrays are NumPy arrays and some are on a device, or a stream or another
            precision is given for NumPy arrays.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}. Received: {precision!r}")
    if View not in map(type, arguments):
        if stream is not None:
            raise ValueError("`stream` is for arrays on a device. Received: NumPy arrays.")
        if precision != "float32":
            raise ValueError(
                f'`precision` must be "float32" for NumPy arrays. Received: {precision!r}'
            )
        function(*arguments)
        return
    arguments = tuple(None if value is NONE else value for value in arguments)
    options = {} if precision == "float32" else {"precision": precision}
    getattr(_cuda(), function.__name__)(*arguments, stream=stream, **options)


def result(value: Any) -> Any:
    """Return the array that the caller gets: ``out``, a NumPy array, or a ``DeviceArray``."""
    return value.owner if isinstance(value, View) else value
