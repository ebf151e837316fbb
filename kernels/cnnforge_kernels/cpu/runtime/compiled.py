"""Compile the CPU kernels when they are first needed, and keep the compiled code on disk.

A kernel is a C function ``void kernel(int64 *args, int64 begin, int64 end)``, which runs the tasks
``begin`` to ``end - 1`` on one thread. This module has a table of the addresses of all kernels.
Code that Numba has compiled finds a kernel's address in the table by the slot number of the kernel.
If the address is not in the table yet, the code calls a Python function, which compiles the kernel
or loads it from the disk cache.
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
# _compile_on_miss returns this in place of an address if Ctrl-C interrupts it.
_INTERRUPTED = -1
# Each row has two numbers: the address of a kernel (0 until the kernel is compiled), and the slot
# number of the kernel.
_table = np.zeros((_SLOTS, 2), np.int64)
_families: list[_Family] = []
_kept: list[Any] = []
_compiling = threading.RLock()
# If two processes compile at the same time, a process could load the wrong code from Numba's disk
# cache. This call prevents that. All kernel modules import this module before they compile, so one
# call is enough.
share_disk_cache()


def vector_lanes() -> int:
    """Return the number of float32 values in a SIMD register: 16 (AVX-512), 8 (AVX2) or 4."""
    features = _features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") and features.get("fma") else 4


def vector_registers() -> int:
    """Return the number of SIMD registers of this CPU: 32 with AVX-512 or on AArch64, else 16."""
    return 32 if vector_lanes() == 16 or "aarch64" in llvm.get_process_triple() else 16


@cache
def _features() -> dict[str, bool]:
    chosen: str | None = numba.config.CPU_FEATURES  # from NUMBA_CPU_FEATURES
    if chosen is None:
        return dict(llvm.get_host_cpu_features())
    return {feature[1:]: feature[0] == "+" for feature in chosen.split(",") if feature}


@cache
def _state() -> str:
    """Return a digest of the CPU kernels' sources and of the versions of Numba and llvmlite."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = Path(__file__).parents[2]
    # A change of a CUDA kernel must not change this digest: CUDA kernels have their own cache.
    for source in sorted(package.rglob("*.py")):
        if (package / "cuda") not in source.parents:
            digest.update(source.relative_to(package).as_posix().encode())
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def cache_directory() -> str:
    """Return the folder of the compiled kernels; its name contains the digest of ``_state``.

    Numba compiles a cached function again if the file of the function has changed, but not if a
    module that this file imports has changed. So the name contains the digest: after a change of
    any source of the kernels the folder is a new one, and Numba compiles everything again.
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
        # Without a folder Numba would use __pycache__ next to the sources. The name __pycache__
        # has no digest, so Numba could load code that was compiled from older sources.
        return os.path.join(temporary_folder(str(folder), error.strerror), folder.name)
    return str(folder)


@contextlib.contextmanager
def disk_cache() -> Iterator[None]:
    """Make Numba use the kernel cache for the functions that are decorated in this context."""
    config = numba.config
    before = config.CACHE_DIR  # pyright: ignore[reportAttributeAccessIssue]
    config.CACHE_DIR = cache_directory()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        config.CACHE_DIR = before  # pyright: ignore[reportAttributeAccessIssue]


def cached_njit(**options: Any) -> Callable[[Any], Any]:
    """Compile a module-level function as ``numba.njit`` does, and keep it in the kernel cache.

    Use this decorator in place of ``numba.njit(cache=True)`` for functions that call kernels. After
    any change of a kernel the kernel cache is a new folder, so that such a function is compiled
    again and does not call the old kernel.

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

    If the C function uses variables of an enclosing function, they must be numbers. Numba cannot
    keep a function with other variables on disk.

    Args:
        signature: Numba's signature of the function; for a kernel, ``KERNEL_SIGNATURE``.
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
    """A family of kernels: all the kernels that one factory function makes.

    Attributes:
        first: Row of the first kernel in the table of kernels.
        count: Number of kernels.
        factory: Function that gets the index of a kernel in the family and returns the kernel.
        tag: 31 bits of a digest of the factory's name and of the kernels' sources.
    """

    first: int
    count: int
    factory: Callable[[int], Any]
    tag: int


def kernel_family(count: int) -> Callable[[Callable[[int], Any]], int]:
    """Reserve ``count`` rows of the table of kernels for the kernels that a factory makes.

    Decorate the factory with the result. The factory gets an index from 0 to ``count - 1`` and
    returns a kernel, a ``numba.cfunc`` of ``KERNEL_SIGNATURE``. The decorated name ``NAME`` becomes
    the slot number of the first kernel, so ``NAME + index`` is the slot number of kernel ``index``.

    Compiled functions in the disk cache contain slot numbers. But the row of a kernel depends on
    the order of imports, and another version of the package may have other kernels. So a slot
    number has three parts: the row, the first row of the family, and a tag. The tag is 31 bits of a
    digest of the factory's name, the factory's source file and the kernels' sources. With the tag,
    a function from the disk cache finds the kernel that it was compiled with even if the row of
    this kernel has changed. If the kernel does not exist any more, the function gets an error.

    Args:
        count: Number of kernels.

    Returns:
        The decorator, which returns the slot number of the first kernel.

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
        # Do not return an int. Numba would treat an int as a literal, and would compile a function
        # with this argument again for each slot number.
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
        # There is no source file, for instance if the function was defined in a notebook.
        return b""


def row_of(slot: int) -> int:
    """Return the row of a kernel in this process's table of kernels.

    Args:
        slot: Slot number of the kernel (see ``kernel_family``).

    Raises:
        RuntimeError: The slot number comes from the disk cache, and its kernel does not exist.
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
    """Return the address of a kernel, given its slot number; compile or load it if necessary.

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
    # Compiled code calls this function and cannot receive an exception from it. So return a special
    # value instead of an address.
    try:
        return compile_kernel(slot)
    except KeyboardInterrupt:
        # Print no traceback, because Ctrl-C is not an error.
        return _INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return 0


def keep_for_ever(thing: Any) -> None:
    """Make sure that an object is never freed, even when the interpreter exits."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def forget_kernel(slot: int) -> None:
    """Remove a kernel's address from the table, so that its next use calls the factory again."""
    _table[row_of(slot), 0] = 0


def publish_address(name: str, result: int) -> None:
    """Define a C function ``int64 name(void)`` that returns ``result``, for compiled code."""
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
    """Call a kernel that has a single task, on this thread.

    Write long code that several ops need as such a kernel. Numba compiles a kernel only once, but
    compiles an ordinary function again for each function that calls it.

    Args:
        slot: Slot number of the kernel.
        args: Argument block of the kernel, an int64 array.
    """
    call_kernel(kernel_address(slot), address_of(args), 0, 1)


@cached_njit()
def aligned_floats(count: int) -> Any:
    """Return an uninitialised float32 array of ``count`` values that begins at a cache line.

    SIMD loads from the array are fast, because no full register lies across two cache lines.
    """
    floats = np.empty(count + _LINE_FLOATS, np.float32)
    first = (-address_of(floats) // 4) % _LINE_FLOATS
    return floats[first : first + count]


@cached_njit()
def kernel_address(slot: int) -> int:
    """Return the address of a kernel, given its slot number, and compile it in the first call."""
    row = _kernel_rows() + 16 * (slot & 0xFFFF)
    address = load_int64(row)
    # If the row has another slot number, then the caller comes from the disk cache, and its kernel
    # is now in another row or does not exist. _compile_kernel finds the row or prints an error.
    if address == 0 or load_int64(row + 8) != slot:
        address = _compile_kernel(slot)
        if address == 0:
            raise RuntimeError("a kernel of cnnforge cannot be compiled: see the messages above")
        if address == _INTERRUPTED:
            # Compiled code cannot raise a KeyboardInterrupt, so raise a RuntimeError.
            raise RuntimeError("interrupted while a kernel of cnnforge was compiled")
    return address
