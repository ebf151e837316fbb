"""A pytest plugin that runs the GPU tests on a machine without a GPU.

Usage: ``pytest -m gpu -p gpu.dry_run_plugin``.

For every call of the tests, kernels and grids are chosen as for an H200 and stored, but not run.
The CPU function of the same name computes the result. With ``--cubins DIR``, the kernels are
compiled for the architecture ``--compile-for`` and written to the folder DIR. A machine with a
device of this architecture can then run the tests without a compiler.
"""

from __future__ import annotations

import ctypes
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from cnnforge_kernels import arrays
from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda
from cnnforge_kernels.cuda.runtime import compiler, driver, simulated_driver
from cnnforge_kernels.cuda.runtime.arrays import View
from gpu.dry_run import Driver, HostArray
from gpu.options import capability

_ROUNDED = ("inputs", "weights", "grad_outputs")
_launched: dict[Kernel, None] = {}


class Array(HostArray):
    """Replacement, in host memory, of the array that ``numba.cuda.to_device`` returns."""

    def __getitem__(self, index: Any) -> Array:
        return Array(self.values[index])

    def reshape(self, shape: tuple[int, ...]) -> Array:
        """View the same memory in another shape."""
        return Array(self.values.reshape(shape))

    def copy_to_host(self) -> np.ndarray:
        """Return a copy as a NumPy array."""
        return self.values.copy()


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--compile-for", type=capability, default=(9, 0))
    parser.addoption("--cubins", type=Path)


def pytest_configure(config: Any) -> None:
    """Replace the CUDA driver and Numba's device arrays for the whole test run."""
    driver._driver = Driver()
    cuda.to_device = lambda array: Array(np.array(array, order="C"))
    cuda.as_cuda_array = lambda array: Array(_memory(array))
    cuda.stream = lambda: SimpleNamespace(handle=512, synchronize=lambda: None)
    arrays.call = _computed(arrays.call)
    # Some tests replace the driver by one that they make. Store the launches of those drivers too.
    simulated_driver.Driver.launch = _noted(simulated_driver.Driver.launch)


def pytest_sessionfinish(session: Any) -> None:
    """Compile the kernels of all stored launches.

    Under pytest-xdist, each process compiles the kernels of the tests that it ran.
    """
    folder = session.config.getoption("--cubins")
    for kernel in _launched if folder else ():
        compiler.export_kernel(kernel, session.config.getoption("--compile-for"), folder)


def _noted(launch: Any) -> Any:
    def noted(self: Any, launches: list[Any], device: int, stream: int) -> None:
        launch(self, launches, device, stream)
        _launched.update((kernel, None) for kernel, _, _ in launches)

    return noted


def _computed(call: Any) -> Any:
    def computed(function: Any, *arguments: Any, **options: Any) -> None:
        call(function, *arguments, **options)
        if not any(isinstance(value, View) for value in arguments):
            return
        names = inspect.signature(function).parameters
        precision = options.get("precision", "float32")
        named = zip(names, arguments, strict=True)
        function(*(_host(name, value, precision) for name, value in named))

    return computed


def _host(name: str, value: Any, precision: str) -> Any:
    if not isinstance(value, View):
        return value
    values = _memory(value)
    return rounded(values, precision) if name in _ROUNDED else values


def rounded(values: np.ndarray, precision: str) -> np.ndarray:
    """Return finite float32 values rounded as tensor cores round their operands."""
    bits = values.view(np.uint32)
    if precision == "tf32":
        bits = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    elif precision == "bfloat16":
        bits = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def _memory(array: Any) -> np.ndarray:
    """Return a NumPy view of the memory of an array."""
    size = int(np.prod(array.shape)) * array.dtype.itemsize
    if not size:
        return np.empty(array.shape, array.dtype)
    content = (ctypes.c_char * size).from_address(_pointer(array))
    # The array must live as long as the result, because it owns the memory. The result references
    # only `content`, so store the array there.
    found = np.frombuffer(content, array.dtype).reshape(array.shape)
    content.array = array
    return found


def _pointer(array: Any) -> int:
    if isinstance(array, Array):
        return array.values.ctypes.data
    return array.pointer
