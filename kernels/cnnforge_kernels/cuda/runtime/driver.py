"""Plans run on a device: all calls of the CUDA driver, through cuda.core.

Kernels are launched with pointers on the caller's stream, in the primary context, which every
framework shares; nothing waits for the device. Compiled kernels are kept for the process and on
disk (``compiler.py``).
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

# Bytes of dynamic shared memory that a block may have unless a kernel asks for more.
_SHARED_BY_DEFAULT = 48 * 1024

# To choose a configuration: seconds of one measurement, the most runs in it, and measurements.
_MEASUREMENT, _MOST_RUNS, _MEASUREMENTS = 0.002, 200, 5


class Buffer(Protocol):
    """Memory on a device."""

    pointer: int

    def free(self) -> None:
        """Give it back, in the order of its stream."""


class _Memory:
    """Memory that was allocated, and is freed, in the order of a stream."""

    def __init__(self, buffer: Any, stream: Any):
        self.pointer = int(buffer.handle) if buffer is not None else 0
        self._buffer, self._stream = buffer, stream

    def free(self) -> None:
        if self._buffer is not None:
            self._buffer.close(self._stream)
            self._buffer = None


class Driver:
    """What is asked of the CUDA driver.

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
                # Asked once: the first question creates the device's context.
                capability_of(device)
            self._devices[number] = device
        return device

    @contextlib.contextmanager
    def _current(self, device: Any) -> Iterator[None]:
        """The device is the current one of this thread, and afterwards the one before is."""
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
        """The compute capability of a device."""
        return capability_of(self._device(device))

    def identity(self, device: int) -> str:
        """What a measured time belongs to: the device's name, capability and driver."""
        owner = self._device(device)
        version = int(self._bindings.cuDriverGetVersion()[1])
        return f"{owner.name} {capability_of(owner)} driver {version}"

    def locate(self, array: Any) -> View:
        """Where a foreign array lies."""
        from cuda.core.utils import (  # pyright: ignore[reportMissingImports]
            StridedMemoryView,
        )

        # -1: no synchronisation; the caller's stream is the one that orders everything.
        found = StridedMemoryView.from_any_interface(array, stream_ptr=-1)
        shape, dtype = tuple(found.shape), np.dtype(found.dtype)
        strides = strides_unless_contiguous(shape, found.strides)
        # The owner is what was passed: whoever passed it as `out` gets it back.
        return View(
            *(int(found.ptr or 0), shape, dtype, found.device_id),
            *(not found.readonly, array, strides),
        )

    def allocate(self, size: int, device: int, stream: int) -> Buffer:
        """So many bytes, in the order of a stream."""
        if not size:
            return _Memory(None, None)
        owner, order = self._device(device), self._stream(stream)
        with self._current(owner):
            # A device's own pool refuses a stream that is being captured into a CUDA graph.
            memory = self._core.GraphMemoryResource(owner) if self._captured(order) else owner
            return _Memory(memory.allocate(size, stream=order), order)

    def _captured(self, order: Any) -> bool:
        """Whether what is done in the order of a stream goes into a CUDA graph."""
        error, status = self._bindings.cuStreamIsCapturing(order.handle)
        # The legacy default stream answers with an error while another stream is captured.
        return not error and int(status) != 0

    def launch(
        self,
        launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]],
        device: int,
        stream: int,
    ) -> None:
        """Launch kernels, (kernel, grid, arguments), one after the other."""
        owner, order = self._device(device), self._stream(stream)
        with self._current(owner):
            for run in self._ready(launches, owner, order):
                run()

    def measurable(self, device: int, stream: int) -> bool:
        """Whether a stream runs what is launched now, rather than being captured into a graph."""
        with self._current(self._device(device)):
            error, status = self._bindings.cuStreamIsCapturing(self._stream(stream).handle)
        return not error and int(status) == 0

    def seconds(
        self,
        launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]],
        device: int,
        stream: int,
    ) -> float:
        """What launches take, by the device's clock: the least of several measurements."""
        owner, order = self._device(device), self._stream(stream)
        with self._current(owner):
            ready = self._ready(launches, owner, order)
            # The first run loads the kernels, the second tells how many fill a measurement.
            self._elapsed(ready, order, 1)
            once = self._elapsed(ready, order, 1)
            count = int(min(max(_MEASUREMENT / max(once, 1e-6), 1), _MOST_RUNS))
            return min(self._elapsed(ready, order, count) for _ in range(_MEASUREMENTS))

    def _elapsed(self, ready: list[Callable[[], Any]], order: Any, count: int) -> float:
        # The option was called `enable_timing` before cuda.core 1.0.
        options = self._core.EventOptions
        fields = {it.name for it in dataclasses.fields(options)}
        option = "timing_enabled" if "timing_enabled" in fields else "enable_timing"
        timed = options(**{option: True})
        begun = order.record(options=timed)
        for _ in range(count):
            for run in ready:
                run()
        ended = order.record(options=timed)
        ended.sync()
        # The difference of events is in milliseconds.
        return (ended - begun) / 1e3 / count

    def _ready(
        self,
        launches: list[tuple[Kernel, tuple[int, int, int], list[Any]]],
        owner: Any,
        order: Any,
    ) -> list[Callable[[], Any]]:
        """Launches with everything looked up."""
        found = []
        for kernel, grid, arguments in launches:
            config = self._core.LaunchConfig(
                grid=grid, block=kernel.threads, shmem_size=kernel.dynamic_shared
            )
            loaded = self._load(kernel, owner)
            found.append(partial(self._core.launch, order, config, loaded, *arguments))
        return found

    def function(self, kernel: Kernel, device: int) -> int:
        """The ``CUfunction`` of a kernel, loaded for a device."""
        owner = self._device(device)
        with self._current(owner):
            # A CUkernel, which the driver takes for a CUfunction wherever that is launched.
            return self._handle(self._load(kernel, owner))

    def _handle(self, loaded: Any) -> int:
        # Without a public name in early versions of cuda.core.
        return int(loaded.handle if hasattr(loaded, "handle") else loaded._handle)

    def _allow_shared(self, loaded: Any, size: int, device: Any) -> None:
        """Let a kernel's blocks have so many bytes of dynamic shared memory."""
        names, handle = self._bindings.CUfunction_attribute, self._handle(loaded)
        (error,) = self._bindings.cuKernelSetAttribute(
            names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            size,
            self._bindings.CUkernel(handle),
            self._bindings.CUdevice(device.device_id),
        )
        if error:
            raise RuntimeError(f"{size} bytes of shared memory a block: {error.name}")

    def _load(self, kernel: Kernel, device: Any) -> Any:
        key = kernel, device.device_id
        loaded = self._loaded.get(key)
        if loaded is None:
            with self._loading:
                compiled = cached_kernel(kernel, capability_of(device))
                try:
                    code = self._core.ObjectCode.from_cubin(compiled.code)
                    loaded = code.get_kernel(compiled.symbol)
                    if kernel.dynamic_shared > _SHARED_BY_DEFAULT:
                        self._allow_shared(loaded, kernel.dynamic_shared, device)
                except Exception as error:
                    raise refused(kernel.name, error) from error
                self._loaded[key] = loaded
        return loaded


_driver: Any = None
_starting = threading.Lock()
# What stands in for the driver on a thread that records.
_instead = threading.local()


@contextlib.contextmanager
def driven_by(other: Any) -> Iterator[None]:
    """On this thread, ``driver()`` is another one."""
    _instead.driver = other
    try:
        yield
    finally:
        _instead.driver = None


def driver() -> Any:
    """The driver, asked for once.

    Raises:
        CudaUnavailableError: there is none, no device, or no numba-cuda.
    """
    other = getattr(_instead, "driver", None)
    if other is not None:
        return other
    global _driver
    if _driver is None:
        with _starting:
            if _driver is None:
                _driver = Driver()
    return _driver


def stream_handle(stream: Any) -> int:
    """The address of a CUDA stream: of an int, ``None`` (the default stream) or an object.

    Objects have ``__cuda_stream__`` (the protocol of cuda.core), ``cuda_stream`` (torch) or ``ptr``
    (CuPy).

    Raises:
        ValueError: something else.
    """
    if stream is None:
        return 0
    if isinstance(stream, (int, np.integer)) and not isinstance(stream, bool):
        return int(stream)
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        # A method by the protocol, a tuple in early versions of it.
        return int((protocol() if callable(protocol) else protocol)[1])
    for name in ("cuda_stream", "ptr"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise ValueError(
        "`stream` must be the address of a CUDA stream, or an object with `__cuda_stream__` or "
        f"`cuda_stream`. Received: {type(stream).__name__}"
    )


def empty(shape: tuple[int, ...], dtype: Any, device: int, stream: int) -> DeviceArray:
    """An uninitialised array."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    return DeviceArray(driver().allocate(size, device, stream), shape, kind, device, stream)


def run(plan: Any, arrays: dict[str, View], stream: int) -> None:
    """Run a plan, or what the tuner has chosen instead.

    Args:
        plan: a ``Plan``.
        arrays: by the names that the plan uses, all on one device.
        stream: address of the stream.
    """
    if not plan.launches:
        return
    if plan.options and tuning.enabled():
        device = next(iter(arrays.values())).device
        seconds = None
        if driver().measurable(device, stream):
            # Each configuration writes the same results: any may run before the chosen one does.
            seconds = partial(_on, arrays=arrays, stream=stream, act=driver().seconds)
        plan = tuning.chosen(plan, driver().identity(device), seconds)
    _on(plan, arrays, stream, driver().launch)


def _on(plan: Any, arrays: dict[str, View], stream: int, act: Callable[..., Any]) -> Any:
    """Do something with a plan's launches, ``act(launches, device, stream)``."""
    device = next(iter(arrays.values())).device
    scratch = driver().allocate(4 * plan.scratch, device, stream) if plan.scratch else None
    pointers = {name: array.pointer for name, array in arrays.items()}
    if scratch is not None:
        pointers["scratch"] = scratch.pointer
    ready = []
    for launch in plan.launches:
        arguments: list[Any] = []
        for value, kind in zip(launch.arguments, launch.kernel.arguments, strict=True):
            if isinstance(value, tuple):
                name, offset = value
                size = np.dtype(kind.removesuffix("*")).itemsize
                arguments.append(pointers[name] + offset * size)
            elif isinstance(value, str):
                arguments.append(pointers[value])
            else:
                # cuda.core passes a NumPy number in its own size, a Python one as a pointer.
                arguments.append(_SCALARS[kind](value))
        ready.append((launch.kernel, launch.grid, arguments))
    try:
        return act(ready, device, stream)
    finally:
        if scratch is not None:
            # In the order of the stream: the kernels are done with it before it is used again.
            scratch.free()
