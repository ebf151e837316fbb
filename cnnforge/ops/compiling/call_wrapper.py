"""Emit the LLVM instructions before and after a call of the function that an op's author wrote.

The instructions load the arguments of the function from the argument block (`entry.py`). After the
call they store the shapes that the function returns, or keep the exception that it raises.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np import arrayobj

_WORD = ir.IntType(64)
_POINTER = ir.IntType(8).as_pointer()

# Exceptions by thread. Compiled code has raised them, but `take_exception` has not returned them
# yet. A `threading.local` does not work here: Python deletes its values for a thread of TensorFlow
# whenever this thread releases the GIL.
_raised: dict[int, BaseException] = {}


@dataclass(frozen=True)
class Argument:
    """One argument of the author's function, and its position in the argument block.

    Attributes:
        type: A C-contiguous `types.Array`, `int64`, `float64`, `boolean` or a `UniTuple` of
            `int64`.
        offset: Index of its first word in the block.
    """

    type: types.Type
    offset: int


@dataclass(frozen=True)
class Result:
    """A tuple of integers that the author's function returns, and its position in the block.

    Attributes:
        length: The number of integers.
        offset: Index of its first word in the block.
    """

    length: int
    offset: int


def take_exception() -> BaseException | None:
    """Return the exception that compiled code has raised on this thread, and forget it."""
    return _raised.pop(threading.get_ident(), None)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _keep_exception(address: int | None) -> None:
    if address is not None:
        _raised[threading.get_ident()] = ctypes.cast(address, ctypes.py_object).value


_KEEP_EXCEPTION = ctypes.cast(_keep_exception, ctypes.c_void_p).value


def _word(builder: ir.IRBuilder, block: ir.Value, index: int) -> ir.Value:
    return builder.gep(block, [ir.Constant(_WORD, index)])


def load_argument(
    context: Any, builder: ir.IRBuilder, block: ir.Value, argument: Argument
) -> ir.Value:
    """Emit the loads of one argument, and return its value as Numba's calling convention needs it.

    Args:
        context: Numba's target context.
        builder: Builder to which the instructions are added.
        block: Pointer to the argument block.
        argument: The argument.
    """

    def word(index: int) -> ir.Value:
        return builder.load(_word(builder, block, argument.offset + index))

    type_ = argument.type
    if isinstance(type_, types.Array):
        return _array(context, builder, type_, word)
    if isinstance(type_, types.UniTuple):
        return context.make_tuple(builder, type_, [word(i) for i in range(len(type_))])
    if type_ == types.float64:
        return builder.bitcast(word(0), ir.DoubleType())
    if type_ == types.boolean:
        return builder.icmp_unsigned("!=", word(0), ir.Constant(_WORD, 0))
    return word(0)


def store_results(
    context: Any,
    builder: ir.IRBuilder,
    block: ir.Value,
    value: ir.Value,
    return_type: types.Type,
    results: Sequence[Result],
) -> None:
    """Emit instructions that store the result of a function, one or more tuples of integers."""
    for index, result in enumerate(results):
        shape = value if len(results) == 1 else builder.extract_value(value, index)
        shape_type = return_type if len(results) == 1 else return_type[index]
        for axis in range(result.length):
            number = builder.extract_value(shape, axis)
            number = context.cast(builder, number, shape_type[axis], types.int64)
            builder.store(number, _word(builder, block, result.offset + axis))


def _array(
    context: Any, builder: ir.IRBuilder, type_: types.Array, word: Callable[[int], ir.Value]
) -> ir.Value:
    array = context.make_array(type_)(context, builder)
    data_type = context.get_data_type(type_.dtype)
    itemsize = ir.Constant(_WORD, context.get_abi_sizeof(data_type))
    shape = [word(1 + axis) for axis in range(type_.ndim)]
    strides: list[ir.Value] = []
    stride: ir.Value = itemsize
    for dimension in reversed(shape):
        strides.insert(0, stride)
        stride = builder.mul(stride, dimension)
    arrayobj.populate_array(
        array,
        data=builder.inttoptr(word(0), data_type.as_pointer()),
        shape=shape,
        strides=strides,
        itemsize=itemsize,
        meminfo=None,
    )
    return array._getvalue()


def keep_exception(context: Any, builder: ir.IRBuilder, module: ir.Module, status: Any) -> None:
    """Emit instructions that make an exception from Numba's error status, for `take_exception`."""
    python = context.get_python_api(builder)
    lock = python.gil_ensure()
    context.call_conv.raise_error(builder, python, status)
    slots = [cgutils.alloca_once(builder, python.pyobj) for _ in range(3)]
    python.err_fetch(*slots)
    signature = ir.FunctionType(ir.VoidType(), [python.pyobjptr] * 3)
    normalise = cgutils.get_or_insert_function(module, signature, "PyErr_NormalizeException")
    builder.call(normalise, slots)
    keep = builder.inttoptr(
        ir.Constant(_WORD, _KEEP_EXCEPTION),
        ir.FunctionType(ir.VoidType(), [_POINTER]).as_pointer(),
    )
    builder.call(keep, [builder.load(slots[1])])
    for slot in slots:
        python.decref(builder.load(slot))
    python.gil_release(lock)
