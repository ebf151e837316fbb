"""Intrinsics that access four elements at once, compare floats, and divide without Python's checks.

``load4`` and ``store4`` read and write four float32 in one instruction. The memory is a pointer or
an array and must be 16-byte aligned. The index counts float32 elements and must be a multiple of 4.
``load4_bytes`` and ``store4_bytes`` do the same for four uint8, 4-byte aligned.

``divide`` divides integers that are not negative, and ``quotient`` divides float32. They are faster
than Numba's ``//`` and ``/``, which check for zero. ``//`` also rounds towards minus infinity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from cnnforge_kernels.cuda.codegen.jit import cuda, intrinsic

_FLOAT4 = ir.VectorType(ir.FloatType(), 4)
_BYTE4 = ir.VectorType(ir.IntType(8), 4)
_INT32 = ir.IntType(32)


def element_pointer(context: Any, builder: Any, numba_type: Any, value: Any, index: Any) -> Any:
    """Emit code that computes the address of an element of a pointer or of a flat array."""
    base = value
    if not isinstance(numba_type, cuda.types.CPointer):
        base = context.make_array(numba_type)(context, builder, value).data
    return builder.gep(base, [index])


def _index(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return context.cast(builder, args[1], signature.args[1], cuda.types.intp)


def _load4(memory: Any, index: Any) -> tuple:
    return tuple(memory[index + k] for k in range(4))


@intrinsic(_load4)
def load4(typingctx: Any, memory: Any, index: Any) -> Any:
    """Read four float32 from ``index`` on, in one instruction."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _index(context, builder, signature, args)
        pointer = element_pointer(context, builder, signature.args[0], args[0], place)
        vector = builder.load(builder.bitcast(pointer, _FLOAT4.as_pointer()), align=16)
        lanes = [builder.extract_element(vector, ir.Constant(_INT32, k)) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, lanes)

    return cuda.types.UniTuple(cuda.types.float32, 4)(memory, index), codegen


def _store4(memory: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    for k, value in enumerate((a, b, c, d)):
        memory[index + k] = value


@intrinsic(_store4)
def store4(typingctx: Any, memory: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Write four float32 from ``index`` on, in one instruction."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _index(context, builder, signature, args)
        pointer = element_pointer(context, builder, signature.args[0], args[0], place)
        vector = ir.Constant(_FLOAT4, ir.Undefined)
        for k in range(4):
            lane = context.cast(builder, args[2 + k], signature.args[2 + k], cuda.types.float32)
            vector = builder.insert_element(vector, lane, ir.Constant(_INT32, k))
        builder.store(vector, builder.bitcast(pointer, _FLOAT4.as_pointer()), align=16)
        return context.get_dummy_value()

    return cuda.types.void(memory, index, a, b, c, d), codegen


def _load4_bytes(memory: Any, index: Any) -> tuple:
    return tuple(int(memory[index + k]) for k in range(4))


@intrinsic(_load4_bytes)
def load4_bytes(typingctx: Any, memory: Any, index: Any) -> Any:
    """Read four uint8 from ``index`` on, and return them as int32. The index is a multiple of 4."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _index(context, builder, signature, args)
        pointer = element_pointer(context, builder, signature.args[0], args[0], place)
        vector = builder.load(builder.bitcast(pointer, _BYTE4.as_pointer()), align=4)
        lanes = [
            builder.zext(builder.extract_element(vector, ir.Constant(_INT32, k)), _INT32)
            for k in range(4)
        ]
        return context.make_tuple(builder, signature.return_type, lanes)

    return cuda.types.UniTuple(cuda.types.int32, 4)(memory, index), codegen


@intrinsic(_store4)
def store4_bytes(typingctx: Any, memory: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Write four uint8 from ``index`` on, in one instruction. The index is a multiple of 4."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _index(context, builder, signature, args)
        pointer = element_pointer(context, builder, signature.args[0], args[0], place)
        vector = ir.Constant(_BYTE4, ir.Undefined)
        for k in range(4):
            lane = context.cast(builder, args[2 + k], signature.args[2 + k], cuda.types.uint8)
            vector = builder.insert_element(vector, lane, ir.Constant(_INT32, k))
        builder.store(vector, builder.bitcast(pointer, _BYTE4.as_pointer()), align=4)
        return context.get_dummy_value()

    return cuda.types.void(memory, index, a, b, c, d), codegen


@intrinsic(lambda a, b: np.int32(int(a) // int(b)))
def divide(typingctx: Any, a: Any, b: Any) -> Any:
    """Compute ``a // b`` as int32, for numbers from 0 to 2**31 - 1. ``b`` must not be 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        typed = zip(args, signature.args, strict=True)
        return builder.udiv(*(context.cast(builder, v, t, cuda.types.int32) for v, t in typed))

    return cuda.types.int32(a, b), codegen


def _exceeds(a: Any, b: Any) -> bool:
    return bool(a > b or (a != a and b == b))


@intrinsic(_exceeds)
def exceeds(typingctx: Any, a: Any, b: Any) -> Any:
    """Test whether ``a > b`` or ``a`` is NaN, in float32.

    ``b`` must be at least 0, or NaN. If ``b`` is NaN, the result is false. The code compares the
    bits of the two floats as integers. This is correct because every NaN that a device computes is
    positive, and its bits are larger than those of any number (CUDA C++ Programming Guide,
    "Floating-Point Standard").
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        typed = zip(args, signature.args, strict=True)
        values = (context.cast(builder, v, t, cuda.types.float32) for v, t in typed)
        return builder.icmp_signed(">", *(builder.bitcast(v, _INT32) for v in values))

    return cuda.types.boolean(a, b), codegen


def _quotient(a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.float32(a) / np.float32(b)


@intrinsic(_quotient)
def quotient(typingctx: Any, a: Any, b: Any) -> Any:
    """Compute ``a / b`` as float32, correctly rounded."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        typed = zip(args, signature.args, strict=True)
        return builder.fdiv(*(context.cast(builder, v, t, cuda.types.float32) for v, t in typed))

    return cuda.types.float32(a, b), codegen
