"""Reads and writes of arrays that are larger than the caches.

Such an array comes from main memory and goes back there, which takes longer than the arithmetic. A
kernel fetches the values of its next block while it computes this block (``prefetch``). It writes
whole cache lines past the caches (``vector_stream``): otherwise the processor would first read each
line from main memory, and drop lines that are still needed.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.compiled import cached_njit, vector_lanes
from cnnforge_kernels.cpu.runtime.llvm import I8, I32, I64, literals, pointer_to, unpack

# An array of this size or more is written past the caches. A third-level cache of 32 MB keeps
# little of a larger array until the next op reads it.
STREAM_BYTES = 24_000_000
LINE_BYTES = 64
# Only a vector that is a whole line is written past the caches. A processor with shorter vectors
# would write parts of a line at different times, each with a transfer of its own.
_WHOLE_LINES = 4 * vector_lanes() == LINE_BYTES


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Fetch the cache line of ``address`` into the second-level cache; it may be any number."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        place = pointer_to(builder, args[0], I8)
        builder.call(function, [place, I32(0), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _store(builder: Any, value: Any, address: Any, index: int) -> None:
    size = 4 * value.type.count
    store = builder.store(value, pointer_to(builder, address, value.type, size * index), align=size)
    store.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))


@intrinsic
def vector_stream(typingctx: Any, vector: Any, address: Any) -> Any:
    """Store a float32 vector past the caches, at an address that is a multiple of its bytes.

    Call ``end_streams`` before other threads read it.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _store(builder, args[0], args[1], 0)
        return context.get_dummy_value()

    return types.void(vector, types.int64), codegen


@intrinsic(prefer_literal=True)
def tile_stream(
    typingctx: Any, tile: Any, address: Any, stride: Any, positions: Any, vectors: Any
) -> Any:
    """Store each position t of a tile past the caches, at ``address + t * stride``, in bytes.

    The addresses of all vectors must be multiples of their bytes. Call ``end_streams`` before other
    threads read them.
    """
    shape = literals(positions, vectors)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = unpack(builder, args[0], T * G)
        for t in range(T):
            start = builder.add(args[1], builder.mul(args[2], ir.Constant(I64, t)))
            for v in range(G):
                _store(builder, items[t * G + v], start, v)
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64, positions, vectors), codegen


@intrinsic
def end_streams(typingctx: Any) -> Any:
    """Wait until all values that ``vector_stream`` has stored are visible to other threads."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@cached_njit()
def streams(address: int, row: int, size: int) -> bool:
    """Return whether to write an array past the caches.

    Args:
        address: address of the array.
        row: bytes of a row, whose vectors are stored one after another.
        size: bytes of the array.
    """
    whole = address % LINE_BYTES == 0 and row % LINE_BYTES == 0
    return _WHOLE_LINES and whole and size >= STREAM_BYTES
