"""Compile kernels to cubins (files of machine code), and keep these on disk.

Neither a device nor a driver is needed. numba-cuda compiles the Python function to LTO-IR, an
intermediate code. nvJitLink (through cuda.core) translates the LTO-IR to machine code for one
architecture. Both packages are installed by the extras ``cnnforge[cuda12]`` and
``cnnforge[cuda13]``. The first step takes nine tenths of the time. It is done once, for the oldest
architecture that can run the kernel, and all newer architectures use the same LTO-IR.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge_kernels.cpu.runtime.compiled import cache_directory
from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError, no_numba_cuda
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED, Kernel, cuda

_compiling = threading.Lock()


@dataclass(frozen=True)
class Compiled:
    """Machine code of one kernel.

    Attributes:
        code: The cubin.
        symbol: Name of the kernel in the cubin.
        log: Output of the assembler about registers, shared memory and register spills; empty for a
            kernel that was read from disk.
    """

    code: bytes
    symbol: str
    log: str = ""


def compile_kernel(kernel: Kernel, capability: tuple[int, int]) -> Compiled:
    """Compile a kernel for a compute capability, such as (9, 0).

    Raises:
        CudaUnavailableError: numba-cuda is not installed, the simulator is on, or the compiler
            does not support the architecture.
    """
    if not AVAILABLE:
        raise no_numba_cuda()
    if SIMULATED:
        raise CudaUnavailableError(
            "The compiler is off while NUMBA_ENABLE_CUDASIM is set. Unset it to use a device."
        )
    try:
        code, log = link([intermediate(kernel)], capability)
    except (
        Exception
    ) as error:  # Errors of numba-cuda, cuda.core and nvJitLink have no other common base class.
        arch, said = "sm_{}{}".format(*capability), " ".join(str(error).split())
        raise CudaUnavailableError(
            f"The kernel {kernel.name!r} could not be compiled for {arch}: {said}. Is the CUDA "
            "toolkit of the installed extra complete and new enough for the device?"
        ) from error
    return Compiled(code, _symbol(code), log)


def intermediate(kernel: Kernel) -> bytes:
    """Compile a kernel to LTO-IR, the intermediate code that ``link`` translates."""
    with _compiling, warnings.catch_warnings(), _names_of_earlier_numpy():
        warnings.simplefilter("ignore")
        code, _ = cuda.compile(
            kernel.function,
            kernel.signature,
            device=False,
            abi="numba",
            cc=kernel.since,
            launch_bounds=kernel.launch_bounds,
            output="ltoir",
        )
    return code


@contextlib.contextmanager
def _names_of_earlier_numpy() -> Iterator[None]:
    """Define ``np.row_stack``. NumPy 2.5 lacks it, but numba-cuda 0.30.4 needs it to compile."""
    if hasattr(np, "row_stack"):
        yield
        return
    np.row_stack = np.vstack
    try:
        yield
    finally:
        del np.row_stack


def link(intermediates: Sequence[bytes], capability: tuple[int, int]) -> tuple[bytes, str]:
    """Link kernels to one cubin for an architecture. Return the cubin and the assembler's log."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(
        arch="sm_{}{}".format(*capability),
        link_time_optimization=True,
        ptxas_options=["-v"],
        verbose=True,
    )
    with _compiling, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        linker = Linker(*(ObjectCode.from_ltoir(code) for code in intermediates), options=options)
        return bytes(linker.link("cubin").code), linker.get_info_log()


def _symbol(code: bytes) -> str:
    """Return the name of the only kernel in a cubin. Its code is in the section ``.text.NAME``."""
    names = set(re.findall(rb"\.text\.([\w$]+)\0", code))
    if len(names) != 1:
        raise ValueError(f"one kernel expected in a cubin, found {sorted(names)}")
    return names.pop().decode()


@cache
def toolchain() -> str:
    """Return the names and versions of the packages that compile a kernel to machine code."""
    names = ("numba", "numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink")
    versions = []
    for name in (*names, "nvidia-nvjitlink-cu12", "nvidia-cuda-nvcc-cu12"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return " ".join(versions)


@cache
def sources() -> str:
    """Return a digest of all source files of ``cnnforge_kernels.cuda``."""
    digest = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for source in sorted(folder.rglob("*.py")):
        digest.update(source.relative_to(folder).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def cached_kernel(kernel: Kernel, capability: tuple[int, int]) -> Compiled:
    """Load the cubin of a kernel from disk, or compile the kernel and write the file.

    The file name is a digest of the sources, the constants of the kernel and the toolchain, so a
    file is read only if all of these are unchanged. If no file can be read, the kernel is compiled.
    The folder in the environment variable ``CNNFORGE_CUBINS`` is searched as well. It holds cubins
    that ``export_kernel`` wrote on another machine.
    """
    compiled = compiled_before(kernel, capability)
    if compiled is None:
        compiled = compile_kernel(kernel, capability)
        _write(_path(kernel, capability), compiled.code)
    return compiled


def compiled_before(kernel: Kernel, capability: tuple[int, int]) -> Compiled | None:
    """Load the cubin of a kernel from disk; return ``None`` if there is no valid file."""
    compiled = _read(_path(kernel, capability))
    if compiled is None and (folder := os.environ.get("CNNFORGE_CUBINS")):
        compiled = _read(Path(folder) / _file_name(kernel, capability))
    return compiled


def _path(kernel: Kernel, capability: tuple[int, int]) -> Path:
    return Path(cache_directory()) / "cuda" / _file_name(kernel, capability, toolchain())


def export_kernel(kernel: Kernel, capability: tuple[int, int], folder: Path) -> Path:
    """Compile a kernel for another machine, which may have no compiler, and write the cubin.

    The other machine must have the same sources of cnnforge.

    Args:
        kernel: The kernel.
        capability: Compute capability of the device of the other machine.
        folder: Folder for the file. On the other machine, set ``CNNFORGE_CUBINS`` to its path.

    Returns:
        The path of the file.

    Raises:
        CudaUnavailableError: The kernel cannot be compiled, as for ``compile_kernel``.
        OSError: The file cannot be written.
    """
    path = folder / _file_name(kernel, capability)
    _write(path, cached_kernel(kernel, capability).code)
    if not path.exists():
        raise OSError(f"{path} cannot be written")
    return path


def _file_name(kernel: Kernel, capability: tuple[int, int], compilers: str = "") -> str:
    key = (kernel.name, kernel.identity, kernel.arguments, kernel.launch_bounds, capability)
    digest = hashlib.sha256(f"{key} {compilers} {sources()}".encode()).hexdigest()
    return f"{digest[:32]}.cubin"


def _read(path: Path) -> Compiled | None:
    try:
        content = path.read_bytes()
        check, code = content[:32], content[32:]
        if hashlib.sha256(code).digest() != check:
            return None
        return Compiled(code, _symbol(code))
    except (OSError, ValueError):
        return None


def _write(path: Path, code: bytes) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(name, path)


def capability_of(device: Any) -> tuple[int, int]:
    """Return the compute capability of a ``cuda.core.Device``."""
    major, minor = device.compute_capability
    return int(major), int(minor)
