"""A CUDA device, used through PyTorch: arrays, streams, graphs and events."""

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

# A measurement uses several copies of a row's arrays. All copies are this many times as large as
# the L2 cache, so a copy has left the cache before it is read again.
_CACHES = 4
_MAX_SETS = 64
_COPY_BYTES = 1 << 30
_MATRIX = 8192


class Graph:
    """Functions that are captured into one CUDA graph, which ``repeat`` replays."""

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
    """Functions that are called one after the other. Their time includes work of the host."""

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
        name: Name of the device by its driver.
    """

    def __init__(self) -> None:
        # `tensor_cores` uses PyTorch's legacy API for tf32, because PyTorch raises an error if a
        # process uses the legacy API and the new one.
        self.tensor_cores(False)
        torch.backends.cudnn.benchmark = True
        self._properties = torch.cuda.get_device_properties(0)
        self.name = self._properties.name

    def about(self) -> dict[str, str]:
        """Return the values of the columns that describe the device."""
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
        """Set whether PyTorch may round float32 products and convolutions to tf32."""
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed

    def variants(self, row: Row) -> list[torch_peer.Variant]:
        """Return the variants of a row in PyTorch, which may use tf32 only if the row does."""
        self.tensor_cores(row.precision == "tf32")
        return torch_peer.variants(row)

    def tensors(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arrays, which are tensors."""
        return arrays

    def sets(self, row: Row, size: int) -> int:
        """Return the number of copies of the row's arrays that a measurement uses.

        Args:
            row: The row.
            size: Size of its arrays in bytes.
        """
        cache = getattr(self._properties, "L2_cache_size", 0) or (64 << 20)
        return int(np.clip(-(-_CACHES * cache // max(size, 1)), 2, _MAX_SETS))

    def put(self, array: np.ndarray) -> Any:
        """Copy an array to the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to("cuda")

    def poisoned(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Make an array full of NaN, or of 254, which is not a valid argmax."""
        made = torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")
        self.poison(made)
        return made

    def poison(self, array: Any) -> None:
        """Fill an array again with the values of ``poisoned``."""
        array.fill_(float("nan") if array.is_floating_point() else 254)

    def get(self, array: Any, images: list[int] | None = None) -> np.ndarray:
        """Copy an array, or some of its images, to host memory."""
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
        """Capture functions into one CUDA graph. Each function runs three times before that.

        Args:
            functions: Functions that compute on the current stream and return their results.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                for function in functions:
                    function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # In relaxed mode, harmless calls of the driver by a library do not end the capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="relaxed"):
            # Keep the results of all functions. Otherwise PyTorch would reuse the same memory, and
            # the results would stay in the cache. Our kernels also write to separate arrays.
            results = [function() for function in functions]
        torch.cuda.synchronize()
        return Graph(graph, results)

    def works(self) -> bool:
        """Whether this process can still use the device after an error."""
        try:
            torch.cuda.synchronize()
            return float(torch.ones(8, device="cuda").sum()) == 8.0
        except Exception:  # PyTorch passes on errors of the driver, which have several types.
            return False

    def called(self, functions: Sequence[Callable[[], Any]]) -> Calls:
        """Return an object that calls functions one by one, because they cannot be captured."""
        torch.cuda.synchronize()
        return Calls(functions)

    def seconds(self, function: Any, count: int) -> float:
        """Measure ``function.repeat(count)`` in seconds, with events of the device."""
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        function.repeat(count)
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended) / 1e3

    def ceilings(self) -> Ceilings:
        """Measure the peak rates of the device with a copy and with products of large matrices."""
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
