"""Describe device arrays of any library, and define the device arrays that cnnforge returns.

A ``View`` holds the address and the layout of an array, and does not copy it. It can be made for
any array with ``__cuda_array_interface__``, DLPack or ``data_ptr()``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

_DLPACK_CUDA = (2, 13)


@dataclass(frozen=True)
class View:
    """Address and layout of an array on a device.

    Attributes:
        pointer: Address of the first element; 0 for an empty array.
        shape: Shape, as in NumPy.
        dtype: Type of the elements.
        device: Index of the device.
        writeable: Whether the array may be written to.
        owner: Array that the caller passed. The reference to it keeps the memory allocated.
        strides: Strides in elements; ``None`` if the array is C-contiguous.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype
    device: int
    writeable: bool = True
    owner: Any = None
    strides: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def end(self) -> int:
        """Address after the last element."""
        return self.pointer + self.size * self.dtype.itemsize

    def overlaps(self, other: View) -> bool:
        """Whether two arrays share memory."""
        if not self.size or not other.size or self.device != other.device:
            return False
        return self.pointer < other.end and other.pointer < self.end


class DeviceArray:
    """A C-contiguous array on a device. Its memory is freed on the stream that allocated it.

    The class has ``__cuda_array_interface__``, so ``torch.as_tensor``, ``cupy.asarray`` and
    ``numba.cuda.as_cuda_array`` use the array without a copy.

    Attributes:
        shape: Shape, as in NumPy.
        dtype: Type of the elements.
        device: Index of the device.
    """

    def __init__(self, buffer: Any, shape: tuple[int, ...], dtype: Any, device: int, stream: int):
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.device = device
        self._buffer = buffer
        self._stream = stream

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def pointer(self) -> int:
        """Address of the first element; 0 for an empty array."""
        return self._buffer.pointer

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            # This module calls the default stream 0. The protocol forbids 0, and calls it 1.
            "stream": self._stream or 1,
            "version": 3,
        }

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype} {self.shape} on device {self.device})"


def is_device_array(value: Any) -> bool:
    """Whether a value is an array that a CUDA device can read. The check imports no library."""
    if isinstance(value, (np.ndarray, int, float, list, tuple, type(None))):
        return False
    if isinstance(value, (DeviceArray, View)):
        return True
    if hasattr(value, "data_ptr"):
        return getattr(value.device, "type", None) == "cuda"
    where = getattr(value, "__dlpack_device__", None)
    if where is not None:
        return int(where()[0]) in _DLPACK_CUDA
    return hasattr(value, "__cuda_array_interface__")


def view(name: str, value: Any, locate: Any) -> View:
    """Return the ``View`` of an array on a device.

    Args:
        name: Name of the argument, for messages.
        value: The array.
        locate: Function ``locate(array) -> View``, called for arrays whose attributes do not give
            both their address and their device.

    Raises:
        ValueError: The value is not an array on a device, or its strides are not multiples of the
            size of an element.
    """
    if isinstance(value, View):
        return value
    if isinstance(value, DeviceArray):
        return View(value.pointer, value.shape, value.dtype, value.device, True, value)
    if not is_device_array(value):
        raise ValueError(
            f"`{name}` must be on the device of the other arrays. Received: "
            f"{type(value).__name__} in host memory. Copy it to the device first."
        )
    if hasattr(value, "data_ptr"):
        return _from_tensor(name, value)
    where = getattr(value, "__dlpack_device__", None)
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None or where is None:
        return locate(value)
    return _from_interface(name, interface, int(where()[1]), value)


def _from_interface(name: str, interface: dict[str, Any], device: int, owner: Any) -> View:
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None:
        if any(stride % dtype.itemsize for stride in strides):
            raise ValueError(
                f"`{name}` must have elements at multiples of their size. Received: strides of "
                f"{tuple(strides)} bytes. Pass a contiguous copy."
            )
        strides = tuple(stride // dtype.itemsize for stride in strides)
    pointer, read_only = interface["data"]
    strides = strides_unless_contiguous(shape, strides)
    return View(int(pointer or 0), shape, dtype, device, not read_only, owner, strides)


def _from_tensor(name: str, tensor: Any) -> View:
    """Return the ``View`` of a torch tensor.

    The address and shape come from the tensor's own attributes, because ``__dlpack__`` and
    ``__cuda_array_interface__`` raise an error for a tensor that requires a gradient.
    """
    type_name, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    try:
        dtype = np.dtype(type_name)
    except TypeError:
        raise ValueError(f"`{name}` must be float32. Received: {type_name}") from None
    strides = None if tensor.is_contiguous() else tuple(tensor.stride())
    device = tensor.device.index or 0
    return View(tensor.data_ptr(), shape, dtype, device, True, tensor, strides)


def strides_unless_contiguous(
    shape: tuple[int, ...], strides: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Return strides in elements, or ``None`` if they are those of a C-contiguous array."""
    if strides is None or not prod(shape):
        return None
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return tuple(strides)
        expected *= size
    return None
