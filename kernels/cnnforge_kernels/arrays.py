"""Check and allocate NumPy arrays and CUDA arrays for the public functions of ``launch``.

With the functions here, a public function accepts both kinds of arrays. The CUDA modules are
imported when a public function first gets a CUDA array.
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
    """Import and return the module of the CUDA functions.

    The import takes half a second. It is not at the top of this module, because it is not needed if
    all arrays are NumPy arrays.
    """
    from cnnforge_kernels.cuda import launch

    return launch


def array(name: str, value: Any, rank: int, stream: Any = None) -> Any:
    """Return ``value`` as a C-contiguous float32 array: a NumPy array, or a ``View`` on a device.

    An array that is not C-contiguous is copied. An array on a device is copied on ``stream``.

    Raises:
        ValueError: The value is not a float32 array of the rank ``rank``.
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
    """Do the same as ``array``, but return an empty array if ``value`` is ``None``."""
    return NONE if value is None else array(name, value, rank, stream)


def argmax_array(value: Any, stream: Any = None) -> Any:
    """Return the argmax of a pool as a C-contiguous array; an array on a device stays there."""
    if is_device_array(value):
        return _cuda().contiguous("argmax", value, stream)
    return np.ascontiguousarray(value)


def empty(near: tuple[Any, ...], shape: tuple[int, ...], dtype: Any, stream: Any) -> Any:
    """Return an uninitialised array.

    The array is on the same device as the arrays ``near``. If these are NumPy arrays, the result is
    a NumPy array.
    """
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
        ValueError: ``given`` does not have the shape and dtype, is not C-contiguous, is read-only,
            or shares memory with an array of ``inputs``.
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
    """Run a CPU function, or the CUDA function of the same name if the arrays are on a device.

    Args:
        function: CPU function.
        *arguments: Arguments of the function. Their arrays were made by ``array`` or ``out``.
        stream: CUDA stream for arrays on a device: the address of the stream, an object that has
            this address, or ``None`` for the default stream.
        precision: Precision of the operands. For NumPy arrays it must be ``"float32"``.

    Raises:
        ValueError: Some arrays are NumPy arrays and some are on a device, or the arrays are NumPy
            arrays and a stream or another precision is given.
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
    """Return the array that a public function gives to the user.

    This is ``value`` itself, or, if ``value`` is a ``View`` of an array on a device, that array.
    """
    return value.owner if isinstance(value, View) else value
