"""Helpers for writing SIMD intrinsics for Numba: a vector type, and functions that emit LLVM code.

The intrinsics are necessary because LLVM does not vectorize plain loops over few channels. The
arguments of an intrinsic are addresses, which are integers in bytes, and shapes, which are literal
integers. A kernel therefore uses no Python objects other than numbers, and Numba can keep the
kernel on disk.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

F32 = ir.FloatType()
I8 = ir.IntType(8)
I32 = ir.IntType(32)
I64 = ir.IntType(64)


class Vector(types.Type):
    """A SIMD register of ``lanes`` float32 or int32 values."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"{element}x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _llvm_type(vector))


def _llvm_type(vector: Vector) -> ir.VectorType:
    return ir.VectorType(F32 if vector.element == "f32" else I32, vector.lanes)


def literals(*values: Any) -> tuple[int, ...] | None:
    """Return the values of Numba's literal integer types; ``None`` if one type is not literal."""
    if all(isinstance(value, types.IntegerLiteral) for value in values):
        return tuple(value.literal_value for value in values)
    return None


def pointer_to(builder: Any, address: Any, element: Any, byte_offset: int = 0) -> Any:
    """Return ``address + byte_offset`` as a pointer to ``element``."""
    if byte_offset:
        address = builder.add(address, ir.Constant(I64, byte_offset))
    return builder.inttoptr(address, element.as_pointer())


def splat(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """Return a vector with ``scalar`` in each lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def zeros(vector: ir.VectorType) -> Any:
    """Return a vector of float zeros."""
    return ir.Constant(vector, [0.0] * vector.count)


def lane_mask(builder: Any, valid: Any, lanes: int) -> Any:
    """Return a vector of booleans that are true in the first ``valid`` lanes."""
    numbers = ir.VectorType(I32, lanes)
    count = splat(builder, builder.trunc(valid, I32), numbers)
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(lanes))), count)


def _masked(builder: Any, operation: str, vector: ir.VectorType, args: list[Any]) -> Any:
    lanes = vector.count
    mask = ir.VectorType(ir.IntType(1), lanes)
    name = f"v{lanes}{'f32' if vector.element == F32 else 'i8'}"
    pointer = vector.as_pointer()
    if operation == "load":
        kind = ir.FunctionType(vector, [pointer, I32, mask, vector])
    else:
        kind = ir.FunctionType(ir.VoidType(), [vector, pointer, I32, mask])
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.masked.{operation}.{name}.p0"
    )
    return builder.call(function, args)


def masked_load(builder: Any, pointer: Any, mask: Any, otherwise: Any) -> Any:
    """Load the lanes whose ``mask`` is true, and take the other lanes from ``otherwise``.

    The memory behind the other lanes is not read.
    """
    return _masked(builder, "load", otherwise.type, [pointer, ir.Constant(I32, 1), mask, otherwise])


def masked_store(builder: Any, value: Any, pointer: Any, mask: Any) -> Any:
    """Store the lanes whose ``mask`` is true."""
    return _masked(builder, "store", value.type, [value, pointer, ir.Constant(I32, 1), mask])


def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """Return ``x * y + z``, rounded once."""
    kind = ir.FunctionType(x.type, [x.type] * 3)
    name = f"llvm.fma.v{x.type.count}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x, y, z])


def tile_type(positions: int, vectors: int, lanes: int) -> types.UniTuple:
    """Return the Numba type of a tile: a tuple of ``positions * vectors`` SIMD registers."""
    return types.UniTuple(Vector("f32", lanes), positions * vectors)


def unpack(builder: Any, tile: Any, count: int) -> list[Any]:
    """Return the ``count`` vectors of a tile as a list."""
    return [builder.extract_value(tile, index) for index in range(count)]


class Loop:
    """A loop ``for index in range(count)`` in LLVM code, with values that each iteration replaces.

    Each value is an LLVM phi node and not a variable in memory, so that the value stays in a
    register even if LLVM does not optimise.

    Attributes:
        index: Index of the iteration, an LLVM int64.
        values: Values at the start of the iteration.
    """

    def __init__(self, builder: Any, count: Any, initial: list[Any]) -> None:
        self.builder, self.count, self.initial = builder, count, initial
        self.before = builder.block
        self.body = builder.append_basic_block("loop")
        self.after = builder.append_basic_block("end")
        some = builder.icmp_signed(">", count, ir.Constant(I64, 0))
        builder.cbranch(some, self.body, self.after)
        builder.position_at_end(self.body)
        self.index = builder.phi(I64)
        self.values = [builder.phi(value.type) for value in initial]

    def finish(self, results: list[Any]) -> list[Any]:
        """End the loop, and return the values that the last iteration leaves.

        Args:
            results: Values at the end of an iteration, in the order of ``values``.
        """
        builder = self.builder
        following = builder.add(self.index, ir.Constant(I64, 1))
        builder.cbranch(builder.icmp_signed("<", following, self.count), self.body, self.after)
        pairs = [(self.index, ir.Constant(I64, 0), following)]
        pairs += zip(self.values, self.initial, results, strict=True)
        for phi, first, result in pairs:
            phi.add_incoming(first, self.before)
            phi.add_incoming(result, self.body)
        builder.position_at_end(self.after)
        final = []
        for first, result in zip(self.initial, results, strict=True):
            phi = builder.phi(first.type)
            phi.add_incoming(first, self.before)
            phi.add_incoming(result, self.body)
            final.append(phi)
        return final
