"""A CUDA device through PyTorch: arrays, streams, graphs and events."""

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

# What a measurement rotates through is so many times as large as the L2 cache: what it reads has
# left the cache since it was read last.
_CACHES = 4
_MOST_SETS = 64
_COPY_BYTES = 1 << 30
_MATRIX = 8192


class Graph:
    """Functions captured into one CUDA graph; ``repeat`` replays it."""

    def __init__(self, graph: Any, results: Any):
        self._graph = graph
        # The memory of the results is theirs alone as long as these live.
        self._results = results

    def __call__(self) -> None:
        """Replay it once."""
        self._graph.replay()

    def repeat(self, count: int) -> None:
        """Replay it so many times."""
        for _ in range(count):
            self._graph.replay()


class Calls:
    """Functions that are called one after the other; what the host takes is part of their time."""

    def __init__(self, functions: Sequence[Callable[[], Any]]):
        self._functions = functions

    def __call__(self) -> None:
        """Call each once."""
        self.repeat(1)

    def repeat(self, count: int) -> None:
        """Call each so many times, in turn."""
        for _ in range(count):
            for function in self._functions:
                function()


class TorchDevice:
    """The first CUDA device.

    Attributes:
        name: as the driver calls it.
    """

    def __init__(self) -> None:
        # The legacy API on purpose: PyTorch refuses a process that uses both.
        self.tensor_cores(False)
        torch.backends.cudnn.benchmark = True
        self._properties = torch.cuda.get_device_properties(0)
        self.name = self._properties.name

    def about(self) -> dict[str, str]:
        """What stands in every line of the results."""
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
        """Whether float32 products and convolutions of PyTorch may round to tf32."""
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed

    def variants(self, row: Row) -> list[torch_peer.Variant]:
        """The ways in which PyTorch computes a row, at its best in the row's precision."""
        self.tensor_cores(row.precision == "tf32")
        return torch_peer.variants(row)

    def tensors(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arrays for PyTorch: as they are."""
        return arrays

    def sets(self, row: Row, size: int) -> int:
        """Sets of buffers, each of ``size`` bytes, that leave nothing in the L2 cache."""
        cache = getattr(self._properties, "L2_cache_size", 0) or (64 << 20)
        return int(np.clip(-(-_CACHES * cache // max(size, 1)), 2, _MOST_SETS))

    def put(self, array: np.ndarray) -> Any:
        """A copy of an array on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to("cuda")

    def poisoned(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An array full of NaN, or of 254, which is no winner."""
        made = torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")
        self.poison(made)
        return made

    def poison(self, array: Any) -> None:
        """Fill it with that again."""
        array.fill_(float("nan") if array.is_floating_point() else 254)

    def get(self, array: Any, images: list[int] | None = None) -> np.ndarray:
        """A copy of an array, or of some of its images, in host memory."""
        return (array if images is None else array[images]).cpu().numpy()

    def same(self, one: Any, other: Any) -> bool:
        """Whether two arrays have the same bits."""
        bits = torch.int32 if one.is_floating_point() else torch.uint8
        return bool(torch.equal(one.view(bits), other.view(bits)))

    def copy(self, array: Any) -> Any:
        """Another array of the same values."""
        return array.clone()

    def run(self, calls: Sequence[Call]) -> None:
        """Run calls on torch's current stream."""
        from cnnforge_kernels.cuda import launch

        stream = torch.cuda.current_stream()
        for call in calls:
            getattr(launch, call.function)(*call.arguments, stream=stream, **dict(call.options))

    def repeated(self, functions: Sequence[Callable[[], Any]]) -> Graph:
        """Functions captured into one CUDA graph, each after it has run three times.

        Args:
            functions: each computes on torch's current stream, and returns its results.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                for function in functions:
                    function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Relaxed: a library that asks the driver something harmless does not end the capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="relaxed"):
            # All results live until the end: each set writes to memory of its own, on both sides.
            results = [function() for function in functions]
        torch.cuda.synchronize()
        return Graph(graph, results)

    def works(self) -> bool:
        """Whether this process can still use the device, after something has failed."""
        try:
            torch.cuda.synchronize()
            return float(torch.ones(8, device="cuda").sum()) == 8.0
        except Exception:  # Whatever the driver has to say.
            return False

    def called(self, functions: Sequence[Callable[[], Any]]) -> Calls:
        """Functions that are called one by one, where no graph can hold them."""
        torch.cuda.synchronize()
        return Calls(functions)

    def seconds(self, function: Any, count: int) -> float:
        """What ``function.repeat(count)`` takes on the device, by its own clock."""
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        function.repeat(count)
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended) / 1e3

    def ceilings(self) -> Ceilings:
        """Measure what the device can do at most: a copy, and products of large matrices."""
        source = torch.randn(_COPY_BYTES // 4, device="cuda")
        target = torch.empty_like(source)
        moved = self._fastest(partial(target.copy_, source))
        flops = {}
        for name, kind in (
            ("float32", torch.float32),
            ("tf32", torch.float32),
            ("bfloat16", torch.bfloat16),
        ):
            self.tensor_cores(name == "tf32")
            one, other = (
                torch.randn(_MATRIX, _MATRIX, device="cuda", dtype=kind) for _ in range(2)
            )
            product = torch.empty_like(one)
            seconds = self._fastest(partial(torch.matmul, one, other, out=product), rounds=10)
            flops[name] = 2 * _MATRIX**3 / seconds
        self.tensor_cores(False)
        return Ceilings(2 * _COPY_BYTES / moved, **flops)

    def _fastest(self, function: Callable[[], Any], rounds: int = 20) -> float:
        graph = self.repeated([function])
        timings, _ = interleave(
            {"it": graph}, rounds=rounds, seconds=0.004, limit=2.0, measure=self.seconds
        )
        return timings["it"].median
