"""Run plans (the kernels for one shape, with their grids and arguments) on a device.

Only this module calls the CUDA driver, through cuda.core. Kernels are launched on the caller's
stream, in the primary context of the device, which all frameworks share. No call waits for the
device, except a measurement of the tuner. Compiled kernels are kept in the process and on disk
(``compiler.py``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np

from cnnforge_kernels.cuda.codegen.errors import no_device, no_numba_cuda, refused
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, Kernel
from cnnforge_kernels.cuda.runtime import tuning
from cnnforge_kernels.cuda.runtime.arrays import DeviceArray, View, strides_unless_contiguous
from cnnforge_kernels.cuda.runtime.compiler import cached_kernel, capability_of

_SCALARS = {name: np.dtype(name).type for name in ("int32", "uint32", "int64", "float32")}

# Bytes of dynamic shared memory that a block may have by default. For a kernel that needs more, the
# limit must be raised (`_allow_shared`) before the launch.
_DEFAULT_SHARED = 48 * 1024

# For the tuner, each configuration of a plan is measured _MEASUREMENTS times. One measurement takes
# about _MEASUREMENT seconds, and runs the configuration at most _MAX_RUNS times.
_MEASUREMENT, _MAX_RUNS, _MEASUREMENTS = 0.002, 200, 5


class Buffer(Protocol):
    """Memory on a device."""

    pointer: int

    def free(self) -> None:
        """Free the memory when all earlier work on its stream has finished."""


class _Memory:
    """Memory on a device. It is freed when all earlier work on its stream has finished."""

    def __init__(self, buffer: Any, stream: Any):
        self.pointer = int(buffer.handle) if buffer is not None else 0
        self._buffer, self._stream = buffer, stream

    def free(self) -> None:
        if self._buffer is not None:
            self._buffer.close(self._stream)
            self._buffer = None


class Driver:
    """The CUDA driver: its functions allocate memory, load kernels, and launch and time them.

    Raises:
        CudaUnavailableError: numba-cuda, a driver or a device is missing, or the driver is too old.
    """

    def __init__(self) -> None:
        if not AVAILABLE:
            raise no_numba_cuda()
        import cuda.core
        from cuda.bindings import driver as bindings

        self._core, self._bindings = cuda.core, bindings
        self._loaded: dict[Any, Any] = {}
        self._devices: dict[int, Any] = {}
        self._loading = threading.Lock()
        try:
            self._device(0)
        except Exception as error:
            raise no_device(error) from error

    def _device(self, number: int) -> Any:
        device = self._devices.get(number)
        if device is None:
            device = self._core.Device(number)
            with self._current(device):
                # Query something, because only the first query creates the context of the device.
                capability_of(device)
            self._devices[number] = device
        return device

    @contextlib.contextmanager
    def _current(self, device: Any) -> Iterator[None]:
        """Make ``device`` the current device of this thread while the context is open."""
        before = self._core.Device()
        device.set_current()
        try:
            yield
        finally:
            if before.device_id != device.device_id:
                before.set_current()

    def _stream(self, handle: int) -> Any:
        if handle in (0, 1):
            return self._core.LEGACY_DEFAULT_STREAM
        if handle == 2:
            return self._core.PER_THREAD_DEFAULT_STREAM
        return self._core.Stream.from_handle(handle)

    def capability(self, device: int) -> tuple[int, int]:
        """Return the compute capability of a device."""
        return capability_of(self._device(device))

    def identity(self, device: int) -> str:
        """Return the names and versions of the device and the driver, for the file of the tuner."""
        owner = self._device(device)
        version = int(self._bindings.cuDriverGetVersion()[1])
        return f"{owner.name} {capability_of(owner)} driver {version}"

    def locate(self, array: Any) -> View:
        """Return the ``View`` of an array of another library."""
        from cuda.core.utils import (  # pyright: ignore[reportMissingImports]
            StridedMemoryView,
        )

        # -1: cuda.core does not synchronise streams. It need not, because all work on the array is
        # on the caller's stream.
        found = StridedMemoryView.from_any_interface(array, stream_ptr=-1)
        shape, dtype = tuple(found.shape), np.dtype(found.dtype)
        strides = strides_unless_contiguous(shape, found.strides)
        # The owner is the caller's array and not `found`: a call with `out=array` must return the
        # object that the caller passed.
        return View(
            *(int(found.ptr or 0), shape, dtype, found.device_id),
            *(not found.readonly, array, strides),
        )

    def allocate(self, size: int, device: int, stream: int) -> Buffer:
        """Allocate ``size`` bytes, for work on one stream."""
        if not size:
            return _Memory(None, None)
        owner, order = self._device(device), self._stream(stream)
        with self._current(owner):
            # While a stream is being captured into a CUDA graph, the device's memory pool cannot
            # allocate memory on it. In this case the graph allocates the memory.
            memory = self._core.GraphMemoryResource(owner) if self._captured(order) else owner
            return _Memory(memory.allocate(size, stream=order), order)

    def _captured(self, order: Any) -> bool:
        """Whether a stream is being captured into a CUDA graph."""
        error, status = self._bindings.cuStreamIsCapturing(order.handle)
        # While another stream is being captured, this query fails for the legacy default stream.
        # That stream itself cannot be captured, so an error means that it is not being captured.
        return not error and int(status) != 0

    def launch(
        self,
        launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]],
        device: int,
        stream: int,
    ) -> None:
        """Launch kernels, given as tuples (kernel, grid, arguments), in this order."""
        owner, order = self._device(device), self._stream(stream)
        with self._current(owner):
            for run in self._ready(launches, owner, order):
                run()

    def measurable(self, device: int, stream: int) -> bool:
        """Whether launches on a stream can be timed: not while a CUDA graph is being captured."""
        with self._current(self._device(device)):
            error, status = self._bindings.cuStreamIsCapturing(self._stream(stream).handle)
        return not error and int(status) == 0

    def seconds(
        self,
        launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]],
        device: int,
        stream: int,
    ) -> float:
        """Run launches several times and return their minimum time in seconds."""
        owner, order = self._device(device), self._stream(stream)
        with self._current(owner):
            ready = self._ready(launches, owner, order)
            # The first run also loads the kernels, so ignore its time. The time of the second run
            # determines the number of runs per measurement.
            self._elapsed(ready, order, 1)
            once = self._elapsed(ready, order, 1)
            count = int(min(max(_MEASUREMENT / max(once, 1e-6), 1), _MAX_RUNS))
            return min(self._elapsed(ready, order, count) for _ in range(_MEASUREMENTS))

    def _elapsed(self, ready: list[Callable[[], Any]], order: Any, count: int) -> float:
        # The option was called `enable_timing` before cuda.core 1.0.
        options = self._core.EventOptions
        fields = {field.name for field in dataclasses.fields(options)}
        option = "timing_enabled" if "timing_enabled" in fields else "enable_timing"
        timed = options(**{option: True})
        begun = order.record(options=timed)
        for _ in range(count):
            for run in ready:
                run()
        ended = order.record(options=timed)
        ended.sync()
        # The difference of two events is a time in milliseconds.
        return (ended - begun) / 1e3 / count

    def _ready(
        self,
        launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]],
        owner: Any,
        order: Any,
    ) -> list[Callable[[], Any]]:
        """Load the kernels, and return a list of functions, each of which starts one launch."""
        found = []
        for kernel, grid, arguments in launches:
            config = self._core.LaunchConfig(
                grid=grid, block=kernel.threads, shmem_size=kernel.dynamic_shared
            )
            loaded = self._load(kernel, owner)
            found.append(partial(self._core.launch, order, config, loaded, *arguments))
        return found

    def function(self, kernel: Kernel, device: int) -> int:
        """Load a kernel for a device and return its ``CUfunction``."""
        owner = self._device(device)
        with self._current(owner):
            # The handle is a CUkernel, which the driver accepts in place of a CUfunction.
            return self._handle(self._load(kernel, owner))

    def _handle(self, loaded: Any) -> int:
        # In early versions of cuda.core the attribute with the handle is private.
        return int(loaded.handle if hasattr(loaded, "handle") else loaded._handle)

    def _allow_shared(self, loaded: Any, size: int, device: Any) -> None:
        """Allow blocks of a kernel to have ``size`` bytes of dynamic shared memory."""
        names, handle = self._bindings.CUfunction_attribute, self._handle(loaded)
        (error,) = self._bindings.cuKernelSetAttribute(
            names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            size,
            self._bindings.CUkernel(handle),
            self._bindings.CUdevice(device.device_id),
        )
        if error:
            raise RuntimeError(f"{size} bytes of shared memory per block: {error.name}")

    def _load(self, kernel: Kernel, device: Any) -> Any:
        key = kernel, device.device_id
        loaded = self._loaded.get(key)
        if loaded is None:
            with self._loading:
                compiled = cached_kernel(kernel, capability_of(device))
                try:
                    code = self._core.ObjectCode.from_cubin(compiled.code)
                    loaded = code.get_kernel(compiled.symbol)
                    if kernel.dynamic_shared > _DEFAULT_SHARED:
                        self._allow_shared(loaded, kernel.dynamic_shared, device)
                except Exception as error:
                    raise refused(kernel.name, error) from error
                self._loaded[key] = loaded
        return loaded


_driver: Any = None
_starting = threading.Lock()
# Per thread: the object that `driver()` returns instead of the real driver while launches are
# recorded and not run (`recording.py`).
_replacement = threading.local()


@contextlib.contextmanager
def driven_by(other: Any) -> Iterator[None]:
    """Make ``driver()`` return ``other`` on this thread while the context is open."""
    _replacement.driver = other
    try:
        yield
    finally:
        _replacement.driver = None


def driver() -> Any:
    """Return the driver of this process, or its replacement on this thread (``driven_by``).

    The driver is made at the first call.

    Raises:
        CudaUnavailableError: The driver, a device or numba-cuda is missing.
    """
    other = getattr(_replacement, "driver", None)
    if other is not None:
        return other
    global _driver
    if _driver is None:
        with _starting:
            if _driver is None:
                _driver = Driver()
    return _driver


def stream_handle(stream: Any) -> int:
    """Return the address of a CUDA stream.

    Args:
        stream: Address, ``None`` for the default stream, or an object with ``__cuda_stream__`` (the
            protocol of cuda.core), ``cuda_stream`` (torch) or ``ptr`` (CuPy).

    Raises:
        ValueError: The value is not a stream.
    """
    if stream is None:
        return 0
    if isinstance(stream, (int, np.integer)) and not isinstance(stream, bool):
        return int(stream)
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        # In early versions of the protocol, `__cuda_stream__` was a tuple and not a method.
        return int((protocol() if callable(protocol) else protocol)[1])
    for name in ("cuda_stream", "ptr"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise ValueError(
        "`stream` must be the address of a CUDA stream, or an object with `__cuda_stream__` or "
        f"`cuda_stream`. Received: {type(stream).__name__}"
    )


def empty(shape: tuple[int, ...], dtype: Any, device: int, stream: int) -> DeviceArray:
    """Allocate an uninitialised array on a device."""
    element = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * element.itemsize
    return DeviceArray(driver().allocate(size, device, stream), shape, element, device, stream)


def run(plan: Any, arrays: dict[str, View], stream: int) -> None:
    """Run a plan on arrays. If the tuner is on, run the configuration that it chose.

    Args:
        plan: The ``Plan``.
        arrays: Arrays by the names that the plan uses, all on one device.
        stream: Address of the stream.
    """
    if not plan.launches:
        return
    if plan.options and tuning.enabled():
        device = next(iter(arrays.values())).device
        seconds = None
        if driver().measurable(device, stream):
            # To measure, the tuner runs all configurations on the caller's arrays. This is correct,
            # because the chosen one runs again below and writes all results.
            seconds = partial(_on, arrays=arrays, stream=stream, act=driver().seconds)
        plan = tuning.chosen(plan, driver().identity(device), seconds)
    _on(plan, arrays, stream, driver().launch)


def _on(plan: Any, arrays: dict[str, View], stream: int, act: Callable[..., Any]) -> Any:
    """Return ``act(launches, device, stream)`` for the launches of a plan on these arrays.

    In the launches, the addresses of the arrays replace their names.
    """
    device = next(iter(arrays.values())).device
    scratch = driver().allocate(4 * plan.scratch, device, stream) if plan.scratch else None
    pointers = {name: array.pointer for name, array in arrays.items()}
    if scratch is not None:
        pointers["scratch"] = scratch.pointer
    ready = []
    for launch in plan.launches:
        arguments: list[Any] = []
        for value, type_name in zip(launch.arguments, launch.kernel.arguments, strict=True):
            if isinstance(value, tuple):
                name, offset = value
                size = np.dtype(type_name.removesuffix("*")).itemsize
                arguments.append(pointers[name] + offset * size)
            elif isinstance(value, str):
                arguments.append(pointers[value])
            else:
                # Convert to a NumPy scalar, which cuda.core passes with its number of bytes. It
                # passes a Python int as a pointer.
                arguments.append(_SCALARS[type_name](value))
        ready.append((launch.kernel, launch.grid, arguments))
    try:
        return act(ready, device, stream)
    finally:
        if scratch is not None:
            # The memory is freed only after the kernels, because both are on the same stream.
            scratch.free()
