"""Declare the functions of TensorFlow's C API, for ctypes and for Numba code.

For Numba code, the functions are registered with LLVM under names that begin with `cnnforge_`.
Compiled code then contains these names instead of addresses, which differ between processes. So
Numba can keep the compiled code in its disk cache.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import tensorflow as tf
from numba import types

INVALID_ARGUMENT = 3

_POINTER = ctypes.c_void_p
_INT = ctypes.c_int
_INT64 = ctypes.c_int64
_STRING = ctypes.c_char_p

_NAMES = {"linux": "libtensorflow_framework.so.2", "darwin": "libtensorflow_framework.2.dylib"}


def _load() -> ctypes.CDLL:
    folder = Path(tf.__file__).parent
    for name in _NAMES.values():
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    raise OSError(f"none of {', '.join(_NAMES.values())} is in {folder}")


_library = _load()
_libc = ctypes.CDLL(None)


def _declare(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function


def _tf(name: str, result: Any, *arguments: Any) -> Any:
    return _declare(_library, name, result, *arguments)


malloc = _declare(_libc, "malloc", _POINTER, ctypes.c_size_t)
FREE = ctypes.cast(_libc.free, _POINTER).value

new_status = _tf("TF_NewStatus", _POINTER)
delete_status = _tf("TF_DeleteStatus", None, _POINTER)
get_code = _tf("TF_GetCode", _INT, _POINTER)
get_message = _tf("TF_Message", _STRING, _POINTER)
set_status = _tf("TF_SetStatus", None, _POINTER, _INT, _STRING)
new_op = _tf("TF_NewOpDefinitionBuilder", _POINTER, _STRING)
add_input = _tf("TF_OpDefinitionBuilderAddInput", None, _POINTER, _STRING)
add_output = _tf("TF_OpDefinitionBuilderAddOutput", None, _POINTER, _STRING)
add_attribute = _tf("TF_OpDefinitionBuilderAddAttr", None, _POINTER, _STRING)
set_shape_function = _tf(
    "TF_OpDefinitionBuilderSetShapeInferenceFunction", None, _POINTER, _POINTER
)
register_op = _tf("TF_RegisterOpDefinition", None, _POINTER, _POINTER)
new_kernel = _tf("TF_NewKernelBuilder", _POINTER, _STRING, _STRING, _POINTER, _POINTER, _POINTER)
register_kernel = _tf("TF_RegisterKernelBuilder", None, _STRING, _POINTER, _POINTER)
construction_failure = _tf("TF_OpKernelConstruction_Failure", None, _POINTER, _POINTER)
context_failure = _tf("TF_OpKernelContext_Failure", None, _POINTER, _POINTER)
get_attribute_size = _tf(
    "TF_OpKernelConstruction_GetAttrSize",
    None,
    _POINTER,
    _STRING,
    ctypes.POINTER(ctypes.c_int32),
    ctypes.POINTER(ctypes.c_int32),
    _POINTER,
)
get_attribute_int64_list = _tf(
    "TF_OpKernelConstruction_GetAttrInt64List",
    None,
    _POINTER,
    _STRING,
    ctypes.POINTER(_INT64),
    _INT,
    _POINTER,
)

# A shape function for TensorFlow that leaves the shape of every output unknown. `registration.py`
# sets the shapes instead, because Python code can call the shape rule of the op.
UNKNOWN_SHAPES = ctypes.cast(_library.TF_ShapeInferenceContextSetUnknownShape, _POINTER).value


class TensorFlowError(RuntimeError):
    """A call of the C API failed."""


def check(status: int) -> None:
    """Delete a status, and raise the error that it holds, if any.

    Raises:
        TensorFlowError: The status holds an error.
    """
    code, message = get_code(status), get_message(status)
    delete_status(status)
    if code:
        raise TensorFlowError(message.decode(errors="replace"))


def _symbol(library: ctypes.CDLL, name: str, signature: Any) -> types.ExternalFunction:
    address = ctypes.cast(getattr(library, name), _POINTER).value
    symbol = f"cnnforge_{name}"
    llvm.add_symbol(symbol, address)
    return types.ExternalFunction(symbol, signature)


_P = types.intp

# Functions that Numba code calls. A pointer has the type intp.
TF_NewStatus = _symbol(_library, "TF_NewStatus", _P())
TF_DeleteStatus = _symbol(_library, "TF_DeleteStatus", types.void(_P))
TF_GetCode = _symbol(_library, "TF_GetCode", types.int32(_P))
TF_GetInput = _symbol(_library, "TF_GetInput", types.void(_P, types.int32, _P, _P))
TF_AllocateOutput = _symbol(
    _library,
    "TF_AllocateOutput",
    _P(_P, types.int32, types.int32, _P, types.int32, types.uint64, _P),
)
TF_AllocateTemp = _symbol(_library, "TF_AllocateTemp", _P(_P, types.int32, _P, types.int32, _P, _P))
TF_TensorData = _symbol(_library, "TF_TensorData", _P(_P))
TF_NumDims = _symbol(_library, "TF_NumDims", types.int32(_P))
TF_Dim = _symbol(_library, "TF_Dim", types.int64(_P, types.int32))
TF_DeleteTensor = _symbol(_library, "TF_DeleteTensor", types.void(_P))
TF_OpKernelContext_Failure = _symbol(_library, "TF_OpKernelContext_Failure", types.void(_P, _P))
pthread_mutex_lock = _symbol(_libc, "pthread_mutex_lock", types.int32(_P))
pthread_mutex_unlock = _symbol(_libc, "pthread_mutex_unlock", types.int32(_P))
