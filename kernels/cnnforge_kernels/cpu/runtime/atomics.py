"""Functions for code that Numba compiles: atomic operations, a pause, and the floating-point mode.

The atomic operations work on int64 values and are sequentially consistent. The thread pool makes
only a few of them, so a weaker memory order would not make it faster. Addresses are integers, in
bytes.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.llvm import I32, I64, pointer_to

_ORDER = "seq_cst"
_ARCHITECTURE = llvm.get_process_triple().partition("-")[0]
_IS_X86 = _ARCHITECTURE in ("x86_64", "i386", "i686")
_IS_ARM = _ARCHITECTURE in ("aarch64", "arm64")


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def atomic_load(typingctx: Any, address: Any) -> Any:
    """Load the int64 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(pointer_to(builder, args[0], I64), _ORDER, 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx: Any, address: Any, value: Any) -> Any:
    """Set the int64 at ``address`` to ``value``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], pointer_to(builder, args[0], I64), _ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def fetch_add(typingctx: Any, address: Any, amount: Any) -> Any:
    """Add ``amount`` to the int64 at ``address``, and return the int64 before the addition."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", pointer_to(builder, args[0], I64), args[1], _ORDER)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def compare_and_swap(typingctx: Any, address: Any, expected: Any, desired: Any) -> Any:
    """Set the int64 at ``address`` to ``desired`` if its value is ``expected``.

    Return ``True`` if the int64 was set.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = pointer_to(builder, args[0], I64)
        return builder.extract_value(builder.cmpxchg(pointer, args[1], args[2], _ORDER, _ORDER), 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the processor that this thread waits in a loop.

    The instruction takes 10 to 140 cycles. On processors other than x86 and ARM this function does
    nothing.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _IS_X86:
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        elif _IS_ARM:
            _call(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(I32, 1))  # yield
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def float_mode(typingctx: Any) -> Any:
    """Return the floating-point mode of this thread, as an int64.

    The mode says how the thread rounds, and whether the thread replaces subnormal numbers by zero.
    TensorFlow's threads do replace them.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _IS_X86:
            place = cgutils.alloca_once(builder, I32)
            _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), place)
            return builder.zext(builder.load(place), I64)
        if _IS_ARM:
            return _call(builder, "llvm.aarch64.get.fpcr", I64)
        return ir.Constant(I64, 0)

    return types.int64(), codegen


@intrinsic
def set_float_mode(typingctx: Any, mode: Any) -> Any:
    """Set the floating-point mode of this thread to ``mode``, which ``float_mode()`` returned."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _IS_X86:
            place = cgutils.alloca_once_value(builder, builder.trunc(args[0], I32))
            _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), place)
        elif _IS_ARM:
            _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
