"""A table of compiled kernels: each is compiled when a shape first needs it, and kept on disk.

A kernel is a serial C function ``void kernel(int64 *args, int64 begin, int64 end)`` over a range of
tasks. Its address stands in a table in memory. Compiled callers look the address up by number. If
it is not there yet, they call back into Python once, which compiles the kernel or loads it from the
disk cache.
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
from numba import types

from cnnforge_disk_cache import share_disk_cache, temporary_folder
from cnnforge_kernels.cpu.runtime.memory import address_of, call_kernel, load_int64

KERNEL_SIGNATURE = types.void(types.CPointer(types.int64), types.int64, types.int64)
_SLOTS = 1 << 16
_LINE_FLOATS = 16
# A value that is not the address of a kernel.
_INTERRUPTED = -1
# A row: the address of a kernel, and the number of its slot.
_table = np.zeros((_SLOTS, 2), np.int64)
_families: list[_Family] = []
_kept: list[Any] = []
_compiling = threading.RLock()
# Everything that is compiled for kernels comes through this module, so this comes first.
share_disk_cache()


def vector_lanes() -> int:
    """Return the float32 lanes of this CPU's widest registers: 16 (AVX-512), 8 (AVX) or 4."""
    features = _host_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") and features.get("fma") else 4


def vector_registers() -> int:
    """Return the number of vector registers: 32 with AVX-512 and on AArch64, else 16."""
    return 32 if vector_lanes() == 16 or "aarch64" in llvm.get_process_triple() else 16


@cache
def _host_features() -> dict[str, bool]:
    return dict(llvm.get_host_cpu_features())


@cache
def _state() -> str:
    """Return a digest of the sources of the kernels and of the versions of their compilers."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = Path(__file__).parents[2]
    # CUDA kernels have a cache of their own.
    for source in sorted(package.rglob("*.py")):
        if (package / "cuda") not in source.parents:
            digest.update(source.relative_to(package).as_posix().encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def cache_directory() -> str:
    """Return the folder of compiled code; each state of the sources and compilers has its own.

    Numba invalidates a cached function when its own file changes, but not when a module changes
    that it uses. The digest in the path covers these changes.
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
        # Numba would choose a folder next to the sources, which all their states would share.
        return os.path.join(temporary_folder(str(folder), error.strerror), folder.name)
    return str(folder)


@contextlib.contextmanager
def disk_cache() -> Iterator[None]:
    """Keep the functions that are decorated with ``cache=True`` here in the kernel cache."""
    config = numba.config
    before = config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    config.CACHE_DIR = cache_directory()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]


def cached_njit(**options: Any) -> Callable[[Any], Any]:
    """Compile a module-level function as ``numba.njit`` does, and keep it in the kernel cache.

    Functions that call kernels need this in place of ``numba.njit(cache=True)``: a change of any
    kernel makes a new cache.

    Args:
        **options: Options of ``numba.njit``.

    Returns:
        The decorator.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.authoring import average_pool2d_forward, cached_njit
        >>> @cached_njit()
        ... def halve(inputs, outputs):
        ...     average_pool2d_forward(inputs, (2, 2), (2, 2), False, outputs)
        >>> outputs = np.empty((1, 1, 1, 1), np.float32)
        >>> halve(np.array([1, 2, 3, 4], np.float32).reshape(1, 2, 2, 1), outputs)
        >>> float(outputs[0, 0, 0, 0])
        2.5
    """

    def decorate(function: Any) -> Any:
        with disk_cache():
            return numba.njit(cache=True, error_model="numpy", **options)(function)

    return decorate


def cached_cfunc(signature: Any, **options: Any) -> Callable[[Any], Any]:
    """Compile a C function as ``numba.cfunc`` does, and keep it in the kernel cache.

    The function may close over numbers only: Numba cannot keep anything else on disk.

    Args:
        signature: Numba's types, ``KERNEL_SIGNATURE`` for a kernel.
        **options: Options of ``numba.cfunc``.

    Returns:
        The decorator.

    Example:
        >>> from numba import types
        >>> from cnnforge_kernels.authoring import cached_cfunc
        >>> @cached_cfunc(types.float64(types.float64))
        ... def square(value):
        ...     return value * value
        >>> square.ctypes(3.0)
        9.0
    """

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
        first: Row of the first kernel in the table.
        count: Number of kernels.
        factory: Function that makes a kernel of its number.
        tag: 31 bits of a digest of the factory's name and sources.
    """

    first: int
    count: int
    factory: Callable[[int], Any]
    tag: int


def kernel_family(count: int) -> Callable[[Callable[[int], Any]], int]:
    """Reserve ``count`` table slots for the kernels that the decorated factory makes.

    The factory gets a number from 0 to ``count - 1`` and returns a cfunc of ``KERNEL_SIGNATURE``.
    The decorated name becomes the family's first slot, so that ``NAME + number`` is a kernel.

    Compiled functions contain slot numbers, and the disk cache keeps them. But the rows of the
    table are given out in the order of imports, and another version has other kernels. So a slot
    number contains the row, the first row of its family, and the family's tag: 31 bits of a digest
    of its name, its source and the kernels' sources. A cached function then gets the kernel that it
    was compiled with, in whatever row it is now, or an error if that kernel does not exist any
    more.

    Args:
        count: Number of kernels.

    Returns:
        The decorator, which returns the first slot.

    Raises:
        ValueError: The table is full.

    Example:
        >>> import numpy as np
        >>> from numba import carray
        >>> from cnnforge_kernels.authoring import KERNEL_SIGNATURE, address_of, cached_cfunc
        >>> from cnnforge_kernels.authoring import cached_njit, kernel_family, run_kernel
        >>> @kernel_family(10)
        ... def ADD(amount):
        ...     @cached_cfunc(KERNEL_SIGNATURE)
        ...     def kernel(args, begin, end):
        ...         for index in range(begin, end):
        ...             carray(args, end)[index] += amount
        ...     return kernel
        >>> @cached_njit()
        ... def add_three(numbers):
        ...     run_kernel(ADD + 3, numbers, numbers.size, 1)
        >>> numbers = np.arange(4)
        >>> add_three(numbers)
        >>> numbers
        array([3, 4, 5, 6])
    """

    def decorate(factory: Callable[[int], Any]) -> int:
        first = _families[-1].first + _families[-1].count if _families else 0
        if first + count > _SLOTS:
            raise ValueError(f"the kernel table has {_SLOTS} slots, {first + count} are needed")
        family = _Family(first, count, factory, _tag(factory, count))
        _families.append(family)
        slot = family.tag << 32 | first << 16 | first
        _table[first : first + count, 1] = slot + np.arange(count)
        # Not an int: Numba would compile what takes a known int for every value of it.
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
        # The function comes from a notebook, for instance.
        return b""


def row_of(slot: int) -> int:
    """Return the row of the table that a slot number means in this process.

    Raises:
        RuntimeError: The slot comes from a cache, and its family does not exist in this process.
    """
    slot = int(slot)
    tag, first, row = slot >> 32, slot >> 16 & 0xFFFF, slot & 0xFFFF
    if _table[row, 1] == slot:
        return row
    for family in _families:
        if family.tag == tag and 0 <= row - first < family.count:
            return family.first + row - first
    raise RuntimeError(
        "a compiled function calls a kernel that does not exist: the function comes from a cache "
        "of Numba, and the kernels have changed since; remove that cache (the __pycache__ folder "
        f"next to the function's file, or {cache_directory()}), and decorate the function with "
        "cached_njit of cnnforge_kernels.authoring in place of numba.njit(cache=True)"
    )


def compile_kernel(slot: int) -> int:
    """Return the address of the kernel of a slot; compile or load the kernel if necessary.

    Raises:
        RuntimeError: The kernel does not exist.
    """
    with _compiling:
        row = row_of(slot)
        if not _table[row, 0]:
            for family in _families:
                if family.first <= row < family.first + family.count:
                    _table[row, 0] = family.factory(row - family.first).address
        return int(_table[row, 0])


def _compile_on_miss(slot: int) -> int:
    # An exception must not leave a callback: it is lost, and the returned value is undefined.
    try:
        return compile_kernel(slot)
    except KeyboardInterrupt:
        # Ctrl-C is not a failure: no traceback.
        return _INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return 0


def keep_for_ever(thing: Any) -> None:
    """Keep an object until the process ends, even after the interpreter has freed its module."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def forget_kernel(slot: int) -> None:
    """Remove a kernel from the table, so that its next use calls the factory again."""
    _table[row_of(slot), 0] = 0


def publish_address(name: str, result: int) -> None:
    """Define the C function ``int64 name(void)``, which returns ``result``, for compiled code."""
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


@cached_njit()
def call_once(slot: int, args: Any) -> None:
    """Call kernel ``slot`` on the int64 block ``args`` in this thread.

    Code that several ops share is a kernel for this reason: Numba compiles a function again with
    each function that calls it, but a kernel once.
    """
    call_kernel(kernel_address(slot), address_of(args), 0, 1)


@cached_njit()
def aligned_floats(count: int) -> Any:
    """Return ``count`` uninitialised float32 values that start at a cache line.

    No vector then lies in two cache lines.
    """
    floats = np.empty(count + _LINE_FLOATS, np.float32)
    first = (-address_of(floats) // 4) % _LINE_FLOATS
    return floats[first : first + count]


@cached_njit()
def kernel_address(slot: int) -> int:
    """Return the address of a kernel in compiled code; its first use compiles it."""
    row = _kernel_rows() + 16 * (slot & 0xFFFF)
    address = load_int64(row)
    # Another number in the row: the slot of a cached function whose family has moved or has gone.
    if address == 0 or load_int64(row + 8) != slot:
        address = _compile_kernel(slot)
        if address == 0:
            raise RuntimeError("a kernel of cnnforge cannot be compiled: see the messages above")
        if address == _INTERRUPTED:
            # Compiled code cannot raise a KeyboardInterrupt.
            raise RuntimeError("interrupted while a kernel of cnnforge was compiled")
    return address
