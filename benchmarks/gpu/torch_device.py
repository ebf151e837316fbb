"""Run and time kernels on a CUDA device. PyTorch provides arrays, streams, graphs and events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from cnnforge.utils.timing import interleave
from gpu import torch_peer
from gpu.ceilings import Ceilings
from gpu.problem import Call
from gpu.rows import Row

# A measurement uses several copies of a row's arrays, one after the other. The copies have a total
# size of _CACHES times the L2 cache, so none is in the cache when it is read again.
_CACHES = 4
_MAX_SETS = 64
_COPY_BYTES = 1 << 30
_MATRIX = 8192


class Graph:
    """A CUDA graph of several functions, which ``repeat`` replays."""

    def __init__(self, graph: Any, results: Any):
        self._graph = graph
        # The graph writes to the memory of the results, so that memory must stay allocated.
        self._results = results

    def __call__(self) -> None:
        """Replay the graph once."""
        self._graph.replay()

    def repeat(self, count: int) -> None:
        """Replay the graph ``count`` times."""
        for _ in range(count):
            self._graph.replay()


class Calls:
    """Functions that are called one by one, without a graph, so work of the host is timed too."""

    def __init__(self, functions: Sequence[Callable[[], Any]]):
        self._functions = functions

    def __call__(self) -> None:
        """Call each function once."""
        self.repeat(1)

    def repeat(self, count: int) -> None:
        """Call all functions in order, ``count`` times."""
        for _ in range(count):
            for function in self._functions:
                function()


class TorchDevice:
    """The first CUDA device.

    Attributes:
        name: Name of the device that the driver reports.
    """

    def __init__(self) -> None:
        # `tensor_cores` uses PyTorch's legacy API for tf32. Use only this API: PyTorch raises an
        # error if a process uses both this and the new one.
        self.tensor_cores(False)
        torch.backends.cudnn.benchmark = True
        self._properties = torch.cuda.get_device_properties(0)
        self.name = self._properties.name

    def about(self) -> dict[str, str]:
        """Return the columns of the results file that describe the device, by name."""
        from cuda.bindings import driver

        known = int(driver.cuDriverGetVersion()[1])
        return {
            "gpu": self.name,
            "driver": f"CUDA {known // 1000}.{known % 1000 // 10}",
            "torch": torch.__version__,
            "cudnn": str(torch.backends.cudnn.version()),
            "numba_cuda": version("numba-cuda"),
        }

    def tensor_cores(self, allowed: bool) -> None:
        """Set whether PyTorch may use tf32 in float32 matrix products and convolutions."""
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed

    def variants(self, row: Row) -> list[torch_peer.Variant]:
        """Return the ways to compute a row in PyTorch. Allow tf32 only for a tf32 row."""
        self.tensor_cores(row.precision == "tf32")
        return torch_peer.variants(row)

    def tensors(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arrays unchanged, because they are PyTorch tensors."""
        return arrays

    def sets(self, row: Row, size: int) -> int:
        """Return the number of copies of the row's arrays that a measurement uses.

        Args:
            row: The row.
            size: Size of one copy of the arrays in bytes.
        """
        cache = getattr(self._properties, "L2_cache_size", 0) or (64 << 20)
        return int(np.clip(-(-_CACHES * cache // max(size, 1)), 2, _MAX_SETS))

    def put(self, array: np.ndarray) -> Any:
        """Copy an array to the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to("cuda")

    def poisoned(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return an array full of NaN, or of 254 for uint8. No kernel writes these values."""
        made = torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")
        self.poison(made)
        return made

    def poison(self, array: Any) -> None:
        """Fill an array with NaN, or with 254 for uint8, as ``poisoned`` does."""
        array.fill_(float("nan") if array.is_floating_point() else 254)

    def get(self, array: Any, images: list[int] | None = None) -> np.ndarray:
        """Copy an array, or the images with the given indices, to host memory."""
        return (array if images is None else array[images]).cpu().numpy()

    def same(self, one: Any, other: Any) -> bool:
        """Whether two arrays have the same bits."""
        bits = torch.int32 if one.is_floating_point() else torch.uint8
        return bool(torch.equal(one.view(bits), other.view(bits)))

    def copy(self, array: Any) -> Any:
        """Copy an array on the device."""
        return array.clone()

    def run(self, calls: Sequence[Call]) -> None:
        """Run calls on the current stream of torch."""
        from cnnforge_kernels.cuda import launch

        stream = torch.cuda.current_stream()
        for call in calls:
            getattr(launch, call.function)(*call.arguments, stream=stream, **dict(call.options))

    def repeated(self, functions: Sequence[Callable[[], Any]]) -> Graph:
        """Return a CUDA graph of the functions. Before the capture, each runs three times.

        Args:
            functions: Functions that compute on PyTorch's current stream and return their results.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                for function in functions:
                    function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # In the stricter modes, some calls of the driver, which a library may make, end the capture
        # with an error.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="relaxed"):
            # Keep references to all results, so that each function writes to other memory, as our
            # kernels do. Otherwise PyTorch would reuse the memory, which would stay in the cache.
            results = [function() for function in functions]
        torch.cuda.synchronize()
        return Graph(graph, results)

    def works(self) -> bool:
        """Whether this process can still use the device after an error."""
        try:
            torch.cuda.synchronize()
            return float(torch.ones(8, device="cuda").sum()) == 8.0
        except Exception:  # Errors of the driver have several types in PyTorch.
            return False

    def called(self, functions: Sequence[Callable[[], Any]]) -> Calls:
        """Return an object that calls functions one by one. Use it if a capture fails."""
        torch.cuda.synchronize()
        return Calls(functions)

    def seconds(self, function: Any, count: int) -> float:
        """Return the time of ``function.repeat(count)`` in seconds, by events of the device."""
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        function.repeat(count)
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended) / 1e3

    def ceilings(self) -> Ceilings:
        """Measure the peak rates of the device, by a large copy and large matrix products."""
        source = torch.randn(_COPY_BYTES // 4, device="cuda")
        target = torch.empty_like(source)
        moved = self._fastest(partial(target.copy_, source))
        flops = {}
        for name, dtype in (
            ("float32", torch.float32),
            ("tf32", torch.float32),
            ("bfloat16", torch.bfloat16),
        ):
            self.tensor_cores(name == "tf32")
            one, other = (
                torch.randn(_MATRIX, _MATRIX, device="cuda", dtype=dtype) for _ in range(2)
            )
            product = torch.empty_like(one)
            seconds = self._fastest(partial(torch.matmul, one, other, out=product), rounds=10)
            flops[name] = 2 * _MATRIX**3 / seconds
        self.tensor_cores(False)
        return Ceilings(2 * _COPY_BYTES / moved, **flops)

    def _fastest(self, function: Callable[[], Any], rounds: int = 20) -> float:
        graph = self.repeated([function])
        timings, _ = interleave(
            {"graph": graph}, rounds=rounds, seconds=0.004, limit=2.0, measure=self.seconds
        )
        return timings["graph"].median
