"""Run ops on TensorFlow's CUDA devices from Python, with the addresses of tensors from DLPack.

Experimental: not yet run on a device.

This route needs no C++ compiler, but it is slow. DLPack gives the address of a tensor, but not the
stream that computes the tensor. So Python waits, before and after the op, until the whole device is
idle.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from cnnforge.ops.cuda_module import DevicePointer, cuda_functions
from cnnforge.ops.definition.definition import Step, parameters
from cnnforge.ops.definition.shapes import Shape
from cnnforge.ops.tensorflow import numpy_function
from cnnforge.ops.tensorflow.cuda.probe import synchronize

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp

_LEGACY_DEFAULT_STREAM = 1
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _Tensor(ctypes.Structure):
    """The C struct `DLTensor`, with which the memory of a DLPack capsule begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 4),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


def call(op: ArrayOp, tensors: Sequence[tf.Tensor], values: Mapping[str, Any]) -> list[tf.Tensor]:
    """Apply an op to tensors whose dtypes and ranks have been checked."""
    return numpy_function.call(op, tensors, values, _run, _py_function)


def _py_function(
    function: Callable[..., list[Any]],
    tensors: Sequence[tf.Tensor],
    dtypes: Sequence[np.dtype[Any]],
) -> list[tf.Tensor]:
    made = tf.py_function(function, tensors, [tf.as_dtype(dtype) for dtype in dtypes])
    return list(made) if isinstance(made, (list, tuple)) else [made]


def _run(
    op: ArrayOp,
    step: Step,
    tensors: Sequence[Any],
    input_shapes: Sequence[Shape],
    values: Mapping[str, Any],
) -> list[Any]:
    if not _on_device(tensors[0]):
        arrays = [tensor.numpy() for tensor in tensors]
        return numpy_function.run_on_arrays(op, step, arrays, input_shapes, values)
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if step.is_forward:
        sizes = op.output_shapes(shapes, values)
    else:
        of = dict(zip((item.name for item in step.reads), shapes, strict=True))
        sizes = [of[source] for source in step.shape_source or ()]
    with tf.device(tensors[0].device):
        results = [
            tf.raw_ops.Empty(shape=size, dtype=tf.as_dtype(item.dtype))
            for item, size in zip(step.writes, sizes, strict=True)
        ]
    names = [item.name for item in (*step.reads, *step.writes)]
    capsules = [tf.experimental.dlpack.to_dlpack(tensor) for tensor in (*tensors, *results)]
    found = zip(names, capsules, (*tensors, *results), strict=True)
    given = {**values, **{name: _pointer(capsule, tensor) for name, capsule, tensor in found}}
    synchronize()
    cuda_functions(op)[step](
        **{name: given[name] for name in parameters(step.function)}, stream=_LEGACY_DEFAULT_STREAM
    )
    synchronize()
    return results


def _on_device(tensor: Any) -> bool:
    return "GPU" in tensor.device


def _pointer(capsule: Any, tensor: Any) -> DevicePointer:
    where = _Tensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    address = (where.data or 0) + where.byte_offset
    shape = tuple(int(size) for size in tensor.shape)
    return DevicePointer(address, shape, np.dtype(tensor.dtype.as_numpy_dtype), where.device)
