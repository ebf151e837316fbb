"""Make a machine-code function with a fixed C signature, the *entry*, from a Numba function.

The entry has the signature `int32 entry(int64 *block)` for all functions. Its parameter is the
argument block, an array of 64-bit words. The entry builds array structures, numbers and tuples from
the words, and calls the native code that Numba has compiled or loaded from its disk cache. The
entry itself is not in the disk cache. Each process makes it again, which takes little time, since
these few instructions are generated with LLVM and not compiled from Python source.

An array occupies 1 + rank words of the block: the address of its first element, and its
dimensions. An integer or boolean occupies one word. A float occupies one word, with the bits of a
double. A tuple of n integers occupies n words.
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
    Argument,
    Result,
    keep_exception,
    load_argument,
    store_results,
    take_exception,
)
from cnnforge.ops.compiling.errors import explain

_INT32 = ir.IntType(32)

_numbers = itertools.count()
# Numba frees machine code together with its library object, but TensorFlow's kernels have only the
# addresses of the code. So this list keeps all library objects until the process ends.
_kept: list[Any] = []


class Entry:
    """A compiled entry.

    Attributes:
        address: Address of `int32 entry(int64 *block)`. Any thread may call it, without the GIL.
            It returns 0, or another number if the author's function raised an exception.
    """

    def __init__(self, address: int) -> None:
        """Make an entry from an address; only `make_entry` calls this."""
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
        function: The function, decorated with `numba.njit`.
        arguments: The type of each parameter.
        label: Name of the function in error messages.

    Returns:
        Numba's `CompileResult`.

    Raises:
        ValueError: Numba cannot compile the function for these types.
    """
    signature = tuple(arguments)
    try:
        function.compile(signature)
        return function.overloads[signature]
    # Catch all exceptions, not only Numba's: the look-up of a name in the function may raise any
    # exception, such as AttributeError.
    except Exception as error:
        expected = ", ".join(
            f"{name}: {type_}"
            for name, type_ in zip(function.py_func.__code__.co_varnames, signature, strict=False)
        )
        raise ValueError(f"{label} does not compile for ({expected}): {explain(error)}") from error


@global_compiler_lock
def make_entry(
    function: Dispatcher,
    arguments: Sequence[Argument],
    label: str,
    results: Sequence[Result] = (),
) -> Entry:
    """Make the entry of an author's function.

    Args:
        function: The function, decorated with `numba.njit`.
        arguments: The argument for each parameter, in the order of the parameters.
        label: Name of the function in error messages.
        results: Descriptions of the tuples of integers that the function returns; it returns a
            tuple of them if there are several. If `results` is empty, it must return nothing.

    Returns:
        The entry, which lives as long as the process.

    Raises:
        ValueError: The function does not compile for these types, or `results` does not describe
            what it returns.
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
    # The entry refers to the author's function by its symbol. Usually Numba's engine finds this
    # symbol. Link the library of the function only if the symbol is not found, because linking
    # compiles the function a second time.
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
                "a function of an op writes into the arrays that are passed in"
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
    """Start Numba's threads, which parallel code needs, and return the name of their library.

    Returns:
        `"omp"`, `"tbb"` or `"workqueue"`. The last one **aborts the process** if two threads use
        it at once, so only one op at a time may then run.
    """
    numba.get_num_threads()
    return numba.threading_layer()
