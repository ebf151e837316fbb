"""Replacement of a GPU for tests and for ``bench_gpu.py --dry-run``.

Each op calls the function in ``cnnforge_kernels.cuda.launch``, which chooses kernels, grids and
arguments. A replacement of the CUDA driver stores these launches and runs nothing. Then the
function of the same name in ``cnnforge_kernels.cpu`` computes the result. So the whole command runs
and has correct results without a device and without a CUDA compiler. All times are made up. Each
batch is reduced to two images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from cnnforge_kernels.cpu.conv import conv2d, conv_block
from cnnforge_kernels.cpu.depthwise import depthwise
from cnnforge_kernels.cpu.pooling import pooling
from cnnforge_kernels.cuda import launch
from cnnforge_kernels.cuda.runtime import driver, simulated_driver
from gpu.ceilings import H200, Ceilings
from gpu.problem import Call
from gpu.rows import Row

IMAGES = 2
_MODULES = (conv2d, conv_block, depthwise, pooling)
_NO_BIAS = np.zeros(0, np.float32)


class HostArray:
    """A host array whose attributes say that it is on a CUDA device."""

    def __init__(self, values: np.ndarray):
        self.values = values
        self.shape, self.dtype = values.shape, values.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.values.nbytes

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface = dict(self.values.__array_interface__)
        return interface | {"data": (interface["data"][0], False), "version": 3}


class Driver(simulated_driver.Driver):
    """Driver of a simulated device with tensor cores. It stores launches and runs nothing."""

    def capability(self, device: int) -> tuple[int, int]:
        """Return the compute capability of the H200."""
        return 9, 0

    def identity(self, device: int) -> str:
        """Return the name under which the tuner stores its choices."""
        return "dry run"


def shrunk(row: Row) -> Row:
    """Return a row (a benchmark case) with at most two images and the same key."""
    return replace(row, inputs=(min(IMAGES, row.inputs[0]), *row.inputs[1:]))


class DryRunDevice:
    """Replacement of ``TorchDevice`` that computes results on the CPU."""

    name = "dry run"

    def __init__(self) -> None:
        self._driver = Driver()
        driver._driver = self._driver

    @property
    def launches(self) -> list[str]:
        """Names of the kernels of all launches so far."""
        return [kernel.name for kernel, _, _ in self._driver.launches]

    def about(self) -> dict[str, str]:
        """Return the columns of the results file that describe the device, by name."""
        return {"gpu": self.name, "driver": "", "torch": "", "cudnn": "", "numba_cuda": ""}

    def ceilings(self) -> Ceilings:
        """Return the peak rates in the datasheet of the H200."""
        return H200

    def variants(self, row: Row) -> list[Any]:
        """Return the ways to compute a row in PyTorch, on the CPU; none without PyTorch."""
        if find_spec("torch") is None:
            return []
        from gpu import torch_peer

        return torch_peer.variants(row, "aot_eager")

    def tensors(self, arrays: Mapping[str, HostArray]) -> Mapping[str, Any]:
        """Convert arrays to PyTorch tensors, by name."""
        import torch  # pyright: ignore[reportMissingImports]

        return {name: torch.from_numpy(array.values) for name, array in arrays.items()}

    def sets(self, row: Row, size: int) -> int:
        """Return the number of copies of the row's arrays that a measurement uses."""
        return 2

    def put(self, array: np.ndarray) -> HostArray:
        """Copy an array."""
        return HostArray(np.array(array, order="C"))

    def poisoned(self, shape: tuple[int, ...], dtype: str) -> HostArray:
        """Return an array full of NaN, or of 254 for uint8. No kernel writes these values."""
        made = HostArray(np.empty(shape, dtype))
        self.poison(made)
        return made

    def poison(self, array: HostArray) -> None:
        """Fill an array with NaN, or with 254 for uint8, as ``poisoned`` does."""
        array.values.fill(np.nan if array.dtype.kind == "f" else 254)

    def get(self, array: HostArray, images: list[int] | None = None) -> np.ndarray:
        """Return a copy of an array, or of the images with the given indices."""
        return array.values.copy() if images is None else array.values[images]

    def same(self, one: HostArray, other: HostArray) -> bool:
        """Whether two arrays have the same bits."""
        return one.values.tobytes() == other.values.tobytes()

    def copy(self, array: HostArray) -> HostArray:
        """Copy an array."""
        return self.put(array.values)

    def run(self, calls: Sequence[Call]) -> None:
        """Store the launches of calls, and compute the results on the CPU."""
        for call in calls:
            given = [_on_device(value) for value in call.arguments]
            getattr(launch, call.function)(*given, **dict(call.options))
            arguments = [_NO_BIAS if value is None else _host(value) for value in given]
            function = next(
                found for module in _MODULES if (found := getattr(module, call.function, None))
            )
            function(*arguments)

    def repeated(self, functions: Sequence[Callable[[], Any]]) -> Any:
        """Run the functions once, and return an object whose ``repeat(count)`` does nothing."""
        for function in functions:
            function()
        return _Nothing()

    def works(self) -> bool:
        """Whether the device can still be used."""
        return True

    def called(self, functions: Sequence[Callable[[], Any]]) -> Any:
        """Return an object whose ``repeat(count)`` does nothing."""
        return _Nothing()

    def seconds(self, function: Any, count: int) -> float:
        """Return a made-up time, the same for all functions."""
        return 1e-3 * count


class _Nothing:
    def __call__(self) -> None:
        self.repeat(1)

    def repeat(self, count: int) -> None:
        """Do nothing."""


def _on_device(value: Any) -> Any:
    """Convert a PyTorch tensor to a ``HostArray``. Return other values unchanged."""
    return HostArray(value.detach().numpy()) if hasattr(value, "data_ptr") else value


def _host(value: Any) -> Any:
    return value.values if isinstance(value, HostArray) else value
