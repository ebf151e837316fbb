"""From a Numba function and argument types to a machine-code function over a block of integers.

The result has the C signature `int32 entry(int64 *block)`, whatever the author's function takes:
array structures, numbers and tuples are built from `block` in a few instructions and handed to
the native code that Numba has compiled (or loaded from its disk cache). Only this glue is made in
every process: it goes straight to LLVM, with none of Numba's passes over Python source.

An array occupies 1 + rank words of the block: the address of its first element and its
dimensions. An integer or boolean occupies one word, a float one word with the bits of a double, a
tuple of n integers n words.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.compiling.call_wrapper import (
    Argument as Argument,
)
from cnnforge.ops.compiling.call_wrapper import (
    Result as Result,
)
from cnnforge.ops.compiling.call_wrapper import (
    keep_exception,
    load_argument,
    store_results,
)
from cnnforge.ops.compiling.call_wrapper import (
    take_exception as take_exception,
)
from cnnforge.ops.compiling.errors import complaint

_INT32 = ir.IntType(32)

_numbers = itertools.count()
# Numba's engine owns the machine code of a library for as long as the library object lives, and
# TensorFlow's kernels hold bare addresses: nothing here may ever be collected.
_kept: list[Any] = []


class Entry:
    """A compiled entry.

    Attributes:
        address: The address of `int32 entry(int64 *block)`. It may be called from any thread and
            needs no GIL. It returns 0, or another number when the author's function raised.
    """

    def __init__(self, address: int) -> None:
        """Wrap an address; `make_entry` makes them."""
        self.address = address
        self._call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(address)

    def __call__(self, block: int) -> None:
        """Run the function on the block at address `block`, with the GIL released.

        Raises:
            Exception: Whatever the author's function raised.
        """
        if self._call(block):
            raise take_exception() or RuntimeError("compiled code failed without an exception")


def compile_function(function: Dispatcher, arguments: Sequence[types.Type], label: str) -> Any:
    """Compile the author's function for exactly these types, or load it from Numba's cache.

    Args:
        function: What `numba.njit` returned.
        arguments: The type of each parameter.
        label: How error messages name the function.

    Returns:
        Numba's `CompileResult`.

    Raises:
        ValueError: Numba cannot compile the function for these types.
    """
    signature = tuple(arguments)
    try:
        function.compile(signature)
        return function.overloads[signature]
    # Numba lets through what Python raises where it looks up a name, an AttributeError for one.
    except Exception as error:
        expected = ", ".join(
            f"{name}: {type_}"
            for name, type_ in zip(function.py_func.__code__.co_varnames, signature, strict=False)
        )
        raise ValueError(
            f"{label} does not compile for ({expected}): {complaint(error)}"
        ) from error


@global_compiler_lock
def make_entry(
    function: Dispatcher,
    arguments: Sequence[Argument],
    label: str,
    results: Sequence[Result] = (),
) -> Entry:
    """Make the entry of an author's function.

    Args:
        function: What `numba.njit` returned.
        arguments: One per parameter, in the order of the parameters.
        label: How error messages name the function.
        results: What the function returns: nothing; a tuple of integers where there is one
            result; a tuple of such tuples where there are several.

    Returns:
        The entry. It lives as long as the process.

    Raises:
        ValueError: The function does not compile for these types, or returns something else.
    """
    compiled = compile_function(function, [argument.type for argument in arguments], label)
    return_type = compiled.signature.return_type
    _check_return_type(return_type, results, label)
    context = function.targetctx
    name = f"cnnforge_entry_{next(_numbers)}"
    library = context.codegen().create_library(name)
    module = library.create_ir_module(name)
    entry = ir.Function(module, ir.FunctionType(_INT32, [ir.IntType(64).as_pointer()]), name)
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    values = [load_argument(context, builder, entry.args[0], argument) for argument in arguments]
    status, value = context.call_conv.call_function(
        builder,
        context.declare_function(module, compiled.fndesc),
        return_type,
        [argument.type for argument in arguments],
        values,
    )
    with builder.if_then(status.is_error, likely=False):
        keep_exception(context, builder, module, status)
        builder.ret(ir.Constant(_INT32, 1))
    store_results(context, builder, entry.args[0], value, return_type, results)
    builder.ret(ir.Constant(_INT32, 0))
    # The author's code is referred to by its symbol, which Numba's engine resolves across
    # libraries; linking it in would optimise and compile all of it a second time.
    if not compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name):
        library.add_linking_library(compiled.library)
    library.add_ir_module(module)
    library.finalize()
    made = Entry(library.get_pointer_to_function(name))
    _kept.append((library, compiled, function, made))
    return made


def _check_return_type(return_type: types.Type, results: Sequence[Result], label: str) -> None:
    if not results:
        if return_type != types.none:
            raise ValueError(
                f"{label} returns a {return_type}, expected nothing: "
                "a function of an op writes into the arrays that it is given"
            )
        return

    def is_shape(type_: types.Type, length: int) -> bool:
        return (
            isinstance(type_, types.BaseTuple)
            and len(type_) == length
            and all(isinstance(item, types.Integer) for item in type_)
        )

    lengths = [result.length for result in results]
    if len(results) == 1:
        fits = is_shape(return_type, lengths[0])
    else:
        fits = (
            isinstance(return_type, types.BaseTuple)
            and len(return_type) == len(lengths)
            and all(is_shape(item, n) for item, n in zip(return_type, lengths, strict=True))
        )
    if not fits:
        expected = (
            f"a tuple of {lengths[0]} integers"
            if len(lengths) == 1
            else f"a tuple of tuples of integers, of the lengths {tuple(lengths)}"
        )
        raise ValueError(f"{label} returns a {return_type}, expected {expected}")


def launch_threads() -> str:
    """Start Numba's threads, which compiled code expects to run, and name their layer.

    Returns:
        `"omp"`, `"tbb"` or `"workqueue"`. The last one **aborts the process** when two threads
        use it at once, so that ops must then take turns.
    """
    numba.get_num_threads()
    return numba.threading_layer()
