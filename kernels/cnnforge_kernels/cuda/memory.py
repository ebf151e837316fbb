"""Access to memory in 128-bit pieces, and integer arithmetic without Python's detours.

``load4`` and ``store4`` move four float32 at once; the index counts single floats and must be a
multiple of 4, the memory 16-byte aligned. They take pointers and arrays alike.

``divide`` and ``remainder`` are those of unsigned 32-bit integers: Numba's own ``//`` and ``%``
check for zero and round towards minus infinity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from cnnforge_kernels.cuda.jit import cuda, intrinsic

_FLOAT4 = ir.VectorType(ir.FloatType(), 4)
_INT32 = ir.IntType(32)


def element_pointer(context: Any, builder: Any, kind: Any, value: Any, index: Any) -> Any:
    """LLVM pointer to an element of a pointer argument or of a flat array."""
    base = value
    if not isinstance(kind, cuda.types.CPointer):
        base = context.make_array(kind)(context, builder, value).data
    return builder.gep(base, [index])


def _index(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return context.cast(builder, args[1], signature.args[1], cuda.types.intp)


def _load4(memory: Any, index: Any) -> tuple:
    return tuple(memory[index + k] for k in range(4))


@intrinsic(_load4)
def load4(typingctx: Any, memory: Any, index: Any) -> Any:
    """The four float32 at ``index``, in one instruction."""

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
    """Write four float32 at ``index``, in one instruction."""

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


def _unsigned(name: str) -> Any:
    def generator(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            operands = [
                context.cast(builder, value, kind, cuda.types.int32)
                for value, kind in zip(args, signature.args, strict=True)
            ]
            return getattr(builder, name)(*operands)

        return cuda.types.int32(a, b), codegen

    return generator


divide = intrinsic(lambda a, b: np.int32(int(a) // int(b)))(_unsigned("udiv"))
remainder = intrinsic(lambda a, b: np.int32(int(a) % int(b)))(_unsigned("urem"))
