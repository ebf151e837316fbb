"""Compiled kernels: made when a shape first asks for them, kept on disk, found without Python.

A kernel is a serial C function ``void kernel(int64 *args, int64 begin, int64 end)`` over a range of
tasks. Its address stands in a table in memory; compiled callers look it up by number and, on a
miss, call back into Python once to have it compiled (or loaded from the disk cache).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnforge_disk_cache import share_disk_cache, temporary_folder

KERNEL_SIGNATURE = types.void(types.CPointer(types.int64), types.int64, types.int64)
_SLOTS = 1 << 16
_LINE_FLOATS = 16
# No address of a kernel.
_INTERRUPTED = -1
# A row: the address of a kernel, and the number of its slot.
_table = np.zeros((_SLOTS, 2), np.int64)
_families: list[_Family] = []
_kept: list[Any] = []
_compiling = threading.RLock()
# Before the first function is made: all that is compiled for kernels comes through this module.
share_disk_cache()


def vector_lanes() -> int:
    """Float32 lanes of this CPU's widest vector registers: 16 (AVX-512), 8 (AVX) or 4."""
    features = _host_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") and features.get("fma") else 4


def vector_registers() -> int:
    """Number of vector registers: 32 with AVX-512 and on AArch64, else 16."""
    return 32 if vector_lanes() == 16 or "aarch64" in llvm.get_process_triple() else 16


@cache
def _host_features() -> dict[str, bool]:
    return dict(llvm.get_host_cpu_features())


@cache
def _state() -> str:
    """A digest of the sources of the kernels, and of their compilers' versions."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = Path(__file__).parents[2]
    # CUDA kernels have a cache of their own.
    for source in sorted(package.rglob("*.py")):
        if (package / "cuda") not in source.parents:
            digest.update(source.relative_to(package).as_posix().encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _cache_directory() -> str:
    """Folder of compiled code, one for each state of the sources it comes from and its compilers.

    Numba invalidates a cached function when the file that holds it changes, not when a module it
    uses does; the digest in the path closes that hole.
    """
    if numba.config.CACHE_DIR:  # pyright: ignore[reportAttributeAccessIssue]
        base = Path(numba.config.CACHE_DIR)  # pyright: ignore[reportAttributeAccessIssue]
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches" / "cnnforge"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "cnnforge"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnforge"
    folder = base / f"kernels-{_state()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        # Numba would take a folder beside the sources, which is not one for each state of them.
        return os.path.join(temporary_folder(str(folder), error.strerror), folder.name)
    return str(folder)


@contextlib.contextmanager
def disk_cache() -> Iterator[None]:
    """Functions decorated with ``cache=True`` in this context are kept in the kernel cache."""
    config = numba.config
    before = config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    config.CACHE_DIR = _cache_directory()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]


def cached_njit(**options: Any) -> Callable[[Any], Any]:
    """``numba.njit`` for a module-level function, kept in the kernel cache."""

    def decorate(function: Any) -> Any:
        with disk_cache():
            return numba.njit(cache=True, error_model="numpy", **options)(function)

    return decorate


def cached_cfunc(signature: Any, **options: Any) -> Callable[[Any], Any]:
    """``numba.cfunc`` for a function that closes over numbers only, kept in the kernel cache."""

    def decorate(function: Any) -> Any:
        with disk_cache():
            compiled = numba.cfunc(signature, cache=True, error_model="numpy", **options)(function)
        _kept.append(compiled)
        return compiled

    return decorate


@dataclass(frozen=True)
class _Family:
    """Kernels that one factory makes.

    Attributes:
        first: The row of the first.
        count: How many there are.
        factory: Makes them.
        tag: 31 bits of a digest of what it is made of.
    """

    first: int
    count: int
    factory: Callable[[int], Any]
    tag: int


def kernel_family(count: int) -> Callable[[Callable[[int], Any]], int]:
    """Reserve ``count`` table slots for the kernels that the decorated factory makes.

    The factory gets a number from 0 to ``count - 1`` and returns a cfunc of ``KERNEL_SIGNATURE``.
    The decorated name becomes the family's first slot.

    Compiled functions hold slot numbers for ever, in their caches too. The rows of the table are
    given out in the order of imports, and another version has other kernels. So a slot number says
    besides its row which family it belongs to (31 bits of a digest of its name, its source and
    cnnforge's) and where that began: a function from a cache gets the kernel that it was compiled
    with, wherever that is now, and an error where there is none.
    """

    def decorate(factory: Callable[[int], Any]) -> int:
        first = _families[-1].first + _families[-1].count if _families else 0
        if first + count > _SLOTS:
            raise ValueError(f"kernel table: {first + count} slots needed, {_SLOTS} there")
        family = _Family(first, count, factory, _tag(factory, count))
        _families.append(family)
        slot = family.tag << 32 | first << 16 | first
        _table[first : first + count, 1] = slot + np.arange(count)
        # Not an int: what takes one that Numba knows the value of is compiled for every value.
        return np.int64(slot)  # pyright: ignore[reportReturnType]

    return decorate


def _tag(factory: Callable[[int], Any], count: int) -> int:
    name = f"{factory.__module__}.{factory.__qualname__} {count} {_state()}"
    source = _source(factory.__code__.co_filename) or factory.__code__.co_code
    return int.from_bytes(hashlib.sha256(name.encode() + source).digest()[:4], "big") >> 1


@cache
def _source(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        # A notebook, for one.
        return b""


def row_of(slot: int) -> int:
    """The row of the table that a slot number means in this process.

    Raises:
        RuntimeError: Its family is not here: it comes from a cache.
    """
    slot = int(slot)
    tag, first, row = slot >> 32, slot >> 16 & 0xFFFF, slot & 0xFFFF
    if _table[row, 1] == slot:
        return row
    for family in _families:
        if family.tag == tag and 0 <= row - first < family.count:
            return family.first + row - first
    raise RuntimeError(
        "a compiled function asks for a kernel that there is not: it comes from a cache of "
        "Numba's, and the kernels have changed since; remove that (the __pycache__ folder beside "
        f"its source, or {_cache_directory()}), and compile with cached_njit of "
        "cnnforge_kernels.cpu.runtime.compiled what was compiled with numba.njit(cache=True)"
    )


def compile_kernel(slot: int) -> int:
    """The address of the kernel of a table slot, compiled or loaded now if it must be.

    Raises:
        RuntimeError: There is no such kernel.
    """
    with _compiling:
        row = row_of(slot)
        if not _table[row, 0]:
            for family in _families:
                if family.first <= row < family.first + family.count:
                    _table[row, 0] = family.factory(row - family.first).address
        return int(_table[row, 0])


def _compile_on_miss(slot: int) -> int:
    # What a callback raises is lost, and what it then returns to compiled code is undefined.
    try:
        return compile_kernel(slot)
    except KeyboardInterrupt:
        # Nothing is wrong, and nothing to be shown.
        return _INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return 0


def keep_for_ever(thing: Any) -> None:
    """Keep an object until the process ends: longer than the interpreter, which frees modules."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def forget_kernel(slot: int) -> None:
    """Have the factory of a table slot asked again when its kernel is next used."""
    _table[row_of(slot), 0] = 0


def publish_address(name: str, result: int) -> None:
    """Make the C symbol ``int64 name(void)``, which returns ``result``, known to compiled code."""
    source = f'define i64 @"{name}"() {{\n  ret i64 {result}\n}}\n'
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(source), machine)
    engine.finalize_object()
    _kept.append(engine)
    llvm.add_symbol(name, engine.get_function_address(name))


_on_miss = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(_compile_on_miss)
publish_address("cnnforge_kernel_rows", _table.ctypes.data)
llvm.add_symbol("cnnforge_compile_kernel", ctypes.cast(_on_miss, ctypes.c_void_p).value)
_kernel_rows = types.ExternalFunction("cnnforge_kernel_rows", types.int64())
_compile_kernel = types.ExternalFunction("cnnforge_compile_kernel", types.int64(types.int64))


@intrinsic
def load_int64(typingctx: Any, address: Any) -> Any:
    """The int64 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), codegen


@intrinsic
def words_at(typingctx: Any, address: Any) -> Any:
    """The pointer to int64 values at ``address``, for ``numba.carray``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), codegen


@intrinsic
def floats_at(typingctx: Any, address: Any) -> Any:
    """The pointer to float32 values at ``address``, for ``numba.carray``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), codegen


@intrinsic
def store_int64(typingctx: Any, address: Any, value: Any) -> Any:
    """Set the int64 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def call_kernel(typingctx: Any, kernel: Any, args: Any, begin: Any, end: Any) -> Any:
    """Call the kernel at address ``kernel`` on the block at address ``args``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        integer = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [integer.as_pointer(), integer, integer])
        function = builder.inttoptr(values[0], kind.as_pointer())
        block = builder.inttoptr(values[1], integer.as_pointer())
        builder.call(function, [block, values[2], values[3]])
        return context.get_dummy_value()

    integer = types.int64
    return types.void(integer, integer, integer, integer), codegen


@intrinsic
def address_of(typingctx: Any, array: Any) -> Any:
    """The address of an array's first element; the caller keeps the array alive."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), codegen


@cached_njit()
def call_once(slot: int, args: Any) -> None:
    """Call kernel ``slot`` on the int64 block ``args`` in this thread.

    For what several ops share: compiled functions that call each other are compiled again with
    every caller, a kernel once.
    """
    call_kernel(kernel_address(slot), address_of(args), 0, 1)


@cached_njit()
def aligned_floats(count: int) -> Any:
    """``count`` float32 values, not set, that begin a cache line: no vector lies across two."""
    floats = np.empty(count + _LINE_FLOATS, np.float32)
    first = (-address_of(floats) // 4) % _LINE_FLOATS
    return floats[first : first + count]


@cached_njit()
def kernel_address(slot: int) -> int:
    """The address of a kernel, from compiled code; compiles it when it was never used before."""
    row = _kernel_rows() + 16 * (slot & 0xFFFF)
    address = load_int64(row)
    # Another number: the slot of a cached function, whose family is elsewhere now, or nowhere.
    if address == 0 or load_int64(row + 8) != slot:
        address = _compile_kernel(slot)
        if address == 0:
            raise RuntimeError("a kernel of cnnforge could not be compiled: see the messages above")
        if address == _INTERRUPTED:
            # Compiled code can raise no KeyboardInterrupt.
            raise RuntimeError("interrupted while a kernel of cnnforge was compiled")
    return address
