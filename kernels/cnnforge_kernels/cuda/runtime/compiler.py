"""Compile kernels to cubins without a device or a driver, and keep them on disk.

numba-cuda compiles the Python function to LTO-IR, and nvJitLink (through cuda.core) links that to
machine code for one architecture. Both are public API and come as wheels with the extras
``cnnforge[cuda12]`` and ``cnnforge[cuda13]``. The first step takes nine tenths of the time. Its
result is for the oldest architecture that can run the kernel, and all others use it too.
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
        log: Output of the assembler about registers, shared memory and spills.
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
    ) as error:  # The errors of numba-cuda, cuda.core and the linker have no common base class.
        arch, said = "sm_{}{}".format(*capability), " ".join(str(error).split())
        raise CudaUnavailableError(
            f"The kernel {kernel.name!r} could not be compiled for {arch}: {said}. Is the CUDA "
            "toolkit of the installed extra complete and new enough for the device?"
        ) from error
    return Compiled(code, _symbol(code), log)


def intermediate(kernel: Kernel) -> bytes:
    """Compile a kernel to LTO-IR."""
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
    """Provide `row_stack`, which NumPy 2.5 lacks and numba-cuda 0.30.4 needs to compile."""
    if hasattr(np, "row_stack"):
        yield
        return
    np.row_stack = np.vstack
    try:
        yield
    finally:
        del np.row_stack


def link(intermediates: Sequence[bytes], capability: tuple[int, int]) -> tuple[bytes, str]:
    """Link kernels to one cubin for an architecture. Return it and the output of the assembler."""
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
    """Read the name of the kernel from the section that holds its instructions."""
    names = set(re.findall(rb"\.text\.([\w$]+)\0", code))
    if len(names) != 1:
        raise ValueError(f"one kernel expected in a cubin, found {sorted(names)}")
    return names.pop().decode()


@cache
def toolchain() -> str:
    """Names and versions of the packages that turn a kernel into machine code."""
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
    """Digest of the sources of all CUDA kernels."""
    digest = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for source in sorted(folder.rglob("*.py")):
        digest.update(source.relative_to(folder).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def cached_kernel(kernel: Kernel, capability: tuple[int, int]) -> Compiled:
    """Load a kernel that an earlier process compiled from the same sources, or compile it.

    The name of its file is a digest of the sources, the constants of the kernel and the toolchain.
    If a file cannot be read or written, the kernel is compiled again. The folder that
    ``CNNFORGE_CUBINS`` names may hold kernels that ``export_kernel`` wrote on another machine.
    """
    compiled = compiled_before(kernel, capability)
    if compiled is None:
        compiled = compile_kernel(kernel, capability)
        _write(_path(kernel, capability), compiled.code)
    return compiled


def compiled_before(kernel: Kernel, capability: tuple[int, int]) -> Compiled | None:
    """Load a kernel that an earlier process compiled; ``None`` if there is no valid file."""
    compiled = _read(_path(kernel, capability))
    if compiled is None and (folder := os.environ.get("CNNFORGE_CUBINS")):
        compiled = _read(Path(folder) / _file_name(kernel, capability))
    return compiled


def _path(kernel: Kernel, capability: tuple[int, int]) -> Path:
    return Path(cache_directory()) / "cuda" / _file_name(kernel, capability, toolchain())


def export_kernel(kernel: Kernel, capability: tuple[int, int], folder: Path) -> Path:
    """Compile a kernel for a machine that has the same sources, but no compiler or a different one.

    Args:
        kernel: The kernel.
        capability: Compute capability of the device of that machine.
        folder: Folder for the file. ``CNNFORGE_CUBINS`` must name it on that machine.

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
