"""Intrinsics for compiled code that read and write memory, and call kernels, at given addresses.

Addresses are integers, in bytes. So an address fits into the argument block of a kernel, which is
an int64 array.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def address_of(typingctx: Any, array: Any) -> Any:
    """Return the address of an array's first element.

    Numba frees an array after the last use of the array, even if its address is still in use. So
    the caller must use the array itself again after the last use of the address.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), codegen


@intrinsic
def load_int64(typingctx: Any, address: Any) -> Any:
    """Load the int64 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), codegen


@intrinsic
def store_int64(typingctx: Any, address: Any, value: Any) -> Any:
    """Set the int64 at ``address`` to ``value``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def words_at(typingctx: Any, address: Any) -> Any:
    """Return a pointer to int64 values at ``address``, for ``numba.carray``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), codegen


@intrinsic
def floats_at(typingctx: Any, address: Any) -> Any:
    """Return a pointer to float32 values at ``address``, for ``numba.carray``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), codegen


@intrinsic
def call_kernel(typingctx: Any, kernel: Any, args: Any, begin: Any, end: Any) -> Any:
    """Call a kernel for the tasks ``begin`` to ``end - 1``.

    ``kernel`` is the address of the kernel, and ``args`` is the address of its argument block.
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        integer = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [integer.as_pointer(), integer, integer])
        function = builder.inttoptr(values[0], kind.as_pointer())
        block = builder.inttoptr(values[1], integer.as_pointer())
        builder.call(function, [block, values[2], values[3]])
        return context.get_dummy_value()

    integer = types.int64
    return types.void(integer, integer, integer, integer), codegen
