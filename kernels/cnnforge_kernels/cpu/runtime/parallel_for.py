"""A parallel loop over the threads of cnnforge, for the functions of an op.

Numba's own parallel loop, ``prange``, starts threads of OpenMP. Each of its loops ends with a
barrier: if another process uses the core of one thread, all threads wait. ``parallel_for`` runs the
loop in the pool of ``thread_pool.py`` instead, as cnnforge's own kernels do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing import signature
from numba.extending import intrinsic, overload

from cnnforge_kernels.cpu.runtime import parallel
from cnnforge_kernels.cpu.runtime.compiled import kernel_address
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel


def parallel_for(body: Any, count: Any, grain: Any, *arguments: Any) -> None:
    """Call ``body(index, *arguments)`` for each index from 0 to ``count - 1``, on all threads.

    The calls run in any order and at the same time, so no two of them may write to the same place.
    In Python, for instance in a debugger, they run one after another.

    Args:
        body: A compiled function, decorated with ``numba.njit`` or ``cached_njit``. Its result is
            not used.
        count: Number of calls.
        grain: Number of calls that a thread makes at a time; choose it so that they take about 20
            microseconds. A number below 1 means 1. If ``count`` is not larger than ``grain``, the
            caller makes all calls.
        *arguments: Arrays, numbers and tuples that all calls get.

    Raises:
        RuntimeError: A call has raised an exception, and this is compiled code. The other calls may
            have run or not.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.authoring import cached_njit, parallel_for
        >>> @cached_njit()
        ... def double_row(row, inputs, outputs):
        ...     outputs[row] = 2 * inputs[row]
        >>> @cached_njit()
        ... def double(inputs, outputs):
        ...     parallel_for(double_row, inputs.shape[0], 1, inputs, outputs)
        >>> outputs = np.empty((2, 2), np.float32)
        >>> double(np.eye(2, dtype=np.float32), outputs)
        >>> outputs
        array([[2., 0.],
               [0., 2.]], dtype=float32)
    """
    for index in range(count):
        body(index, *arguments)


@intrinsic
def _kernel_of(typingctx: Any, body: Any, failed: Any, arguments: Any) -> Any:
    """Return the address of a kernel that calls ``body``, and that of its argument block.

    The argument block is on the stack of the caller. It has the address ``failed``, where the
    kernel stores 1 if a call raises an exception, and then the arguments.
    """
    if not isinstance(body, types.Dispatcher) or not isinstance(arguments, types.BaseTuple):
        return None
    given = (types.int64, *arguments.types)
    # This compiles `body` for these types.
    body.get_call_type(typingctx, given, {})

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        compiled = body.dispatcher.get_compile_result(signature(types.none, *given))
        context.active_code_library.add_linking_library(compiled.library)
        integer = ir.IntType(64)
        place = cgutils.pack_struct(builder, [args[1], args[2]])
        block = cgutils.alloca_once_value(builder, place)
        kind = ir.FunctionType(ir.VoidType(), [integer.as_pointer(), integer, integer])
        name = builder.module.get_unique_name(f"{builder.function.name}.body")
        kernel = ir.Function(builder.module, kind, name)
        kernel.linkage = "internal"
        _write_kernel(context, kernel, compiled, given, arguments, block.type)
        return context.make_tuple(
            builder,
            sig.return_type,
            [builder.ptrtoint(kernel, integer), builder.ptrtoint(block, integer)],
        )

    return types.UniTuple(types.int64, 2)(body, types.int64, arguments), codegen


def _without_count(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return an array without its reference counter, and any other value as it is.

    Numba counts each slice of an array. If two threads change one counter, its cache line moves
    between the cores each time, so that two threads were not faster than one. The caller of
    ``parallel_for`` keeps the arrays.
    """
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    array.parent = cgutils.get_null_value(array.parent.type)
    return array._getvalue()


def _write_kernel(
    context: Any, kernel: Any, compiled: Any, given: Any, arguments: Any, block_type: Any
) -> None:
    builder = ir.IRBuilder(kernel.append_basic_block("entry"))
    integer = ir.IntType(64)
    block, begin, end = kernel.args
    failed, values = cgutils.unpack_tuple(
        builder, builder.load(builder.bitcast(block, block_type)), 2
    )
    items = cgutils.unpack_tuple(builder, values, len(arguments.types))
    items = [
        _without_count(context, builder, kind, item)
        for kind, item in zip(arguments.types, items, strict=True)
    ]
    function = context.declare_function(builder.module, compiled.fndesc)
    with cgutils.for_range_slice(builder, begin, end, ir.Constant(integer, 1)) as (index, _):
        status, _ = context.call_conv.call_function(
            builder, function, compiled.signature.return_type, given, [index, *items]
        )
        with builder.if_then(status.is_error, likely=False):
            flag = builder.inttoptr(failed, integer.as_pointer())
            builder.store(ir.Constant(integer, 1), flag)
    builder.ret_void()


# Inlined, because Numba cannot keep a function on disk that passes another function to a third.
@overload(parallel_for, jit_options={"forceinline": True})
def _overload_parallel_for(body: Any, count: Any, grain: Any, *arguments: Any) -> Any:
    def compiled(body: Any, count: Any, grain: Any, *arguments: Any) -> None:
        failed = np.zeros(1, np.int64)
        kernel, block = _kernel_of(body, address_of(failed), arguments)
        if count <= grain:
            call_kernel(kernel, block, 0, count)
        else:
            job = np.empty(3, np.int64)
            job[0], job[1], job[2] = kernel, block, count
            # With a grain of 0, a thread would take no call and never end.
            call_kernel(kernel_address(parallel.DRIVER), address_of(job), max(grain, 1), 0)
            # Numba frees an array after its last use, so use it here.
            job[0] = 0
        if failed[0] != 0:
            raise RuntimeError("a call of the body of parallel_for raised an exception")

    return compiled
