"""Tests of the launch layer without a device."""

import inspect
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import cnnforge_kernels as kernels
from cnnforge_kernels import arrays as placement
from cnnforge_kernels.cpu.conv import conv2d, conv_block
from cnnforge_kernels.cpu.depthwise import depthwise
from cnnforge_kernels.cpu.pooling import global_average, pooling
from cnnforge_kernels.cuda import launch
from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError, no_device
from cnnforge_kernels.cuda.conv.plans import Convolution, forward, grad_weights
from cnnforge_kernels.cuda.runtime import driver as driver_module
from cnnforge_kernels.cuda.runtime import plans
from cnnforge_kernels.cuda.runtime.arrays import View, is_device_array, strides_unless_contiguous
from cnnforge_kernels.cuda.runtime.compiler import Compiled
from cnnforge_kernels.cuda.tensor_cores.halo.convolution import halo_convolution

CPU = [
    function
    for module in (conv2d, conv_block, depthwise, global_average, pooling)
    for name, function in vars(module).items()
    if hasattr(launch, name) and getattr(function, "py_func", None) is not None
]


def test_parameters_are_those_of_the_cpu():
    assert len(CPU) == 15
    for function in CPU:
        ours = list(inspect.signature(getattr(launch, function.__name__)).parameters)
        expected = [*inspect.signature(function.py_func).parameters, "stream"]
        # Only convolutions have a precision, and depthwise ones do not.
        if function.__name__.startswith("conv2d"):
            expected.append("precision")
        assert ours == expected


class Elsewhere:
    """Looks like an array on a missing device."""

    shape, dtype = (1, 5, 5, 2), np.dtype(np.float32)

    def __dlpack_device__(self):
        return 2, 0

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape,
            "typestr": "<f4",
            "data": (4096, False),
            "strides": None,
            "version": 3,
        }


def test_no_device(monkeypatch):
    def missing():
        raise no_device(RuntimeError("no driver"))

    monkeypatch.setattr(driver_module, "driver", missing)
    with pytest.raises(CudaUnavailableError, match=r"Install the driver.* The driver said: no"):
        kernels.max_pool2d(Elsewhere())


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("CUDA_ERROR_NO_DEVICE: no CUDA-capable device", "The CUDA device was not found"),
        ("CUDA_ERROR_INSUFFICIENT_DRIVER", r"too old.*cnnforge\[cuda12\]"),
        ("Function cuDeviceGetNew not found", "driver is too old"),
        ("", "Install the driver"),
    ],
)
def test_the_message_gives_advice(said, advice):
    assert is_device_array(Elsewhere())
    with pytest.raises(CudaUnavailableError, match=advice):
        raise no_device(OSError(said))


def test_a_driver_that_refuses_a_kernel(monkeypatch):
    class Code:
        @staticmethod
        def from_cubin(code):
            raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")

    class Core:
        ObjectCode = Code

    class Device:
        device_id, compute_capability = 0, (9, 0)

    made = driver_module.Driver.__new__(driver_module.Driver)
    made._core, made._loaded, made._loading = Core, {}, threading.Lock()
    monkeypatch.setattr(driver_module, "cached_kernel", lambda *_: Compiled(b"", "name"))
    plan = forward(Convolution((1, 5, 5, 1), (3, 3, 1, 4)), False, False)
    with pytest.raises(CudaUnavailableError, match=r"refused.*'conv2d_direct.*Update the driver"):
        made._load(plan.launches[0].kernel, Device)


class Pool:
    """A memory resource that notes its name when it allocates."""

    device_id = 0

    def __init__(self, name, asked):
        self._name, self._asked = name, asked

    def allocate(self, size, stream):
        self._asked.append((self._name, size))
        return SimpleNamespace(handle=512, close=lambda _: None)

    def set_current(self):
        pass


@pytest.mark.parametrize(
    ("answer", "source"),
    [((0, 0), "device"), ((0, 1), "graph"), ((906, 0), "device")],
    ids=["outside", "captured", "another stream is captured"],
)
def test_memory_while_a_stream_is_captured_into_a_graph(answer, source):
    asked = []
    device = Pool("device", asked)
    made = driver_module.Driver.__new__(driver_module.Driver)
    made._core = SimpleNamespace(
        Device=lambda *_: device,
        LEGACY_DEFAULT_STREAM=SimpleNamespace(handle=1),
        GraphMemoryResource=lambda owner: Pool("graph", asked),
    )
    made._bindings = SimpleNamespace(cuStreamIsCapturing=lambda handle: answer)
    made._devices = {0: device}
    made.allocate(64, 0, 0).free()
    assert asked == [(source, 64)]


def test_a_foreign_out_array_is_returned(monkeypatch):
    utilities = pytest.importorskip("cuda.core.utils", reason="needs cuda.core")

    class Foreign:
        shape, dtype = (2, 3), np.dtype(np.float32)
        __cuda_array_interface__ = None

    class Found:
        ptr, shape, dtype, strides, device_id, readonly = 512, (2, 3), "float32", None, 0, False

        @classmethod
        def from_any_interface(cls, array, stream_ptr):
            assert stream_ptr == -1
            return cls()

    monkeypatch.setattr(utilities, "StridedMemoryView", Found)
    foreign, made = Foreign(), driver_module.Driver.__new__(driver_module.Driver)
    where = made.locate(foreign)
    assert (where.pointer, where.owner, where.strides) == (512, foreign, None)
    assert placement.result(where) is foreign


def test_values_that_are_not_arrays_on_a_device():
    for value in (np.zeros(3), [1.0], None, 3, "text"):
        assert not is_device_array(value)


def test_strides_unless_contiguous():
    for shape, strides in (
        ((2, 3), None),
        ((2, 3), (3, 1)),
        ((2, 1), (1, 99)),
        ((0, 3), (1, 1)),
    ):
        assert strides_unless_contiguous(shape, strides) is None
    assert strides_unless_contiguous((2, 3), (1, 2)) == (1, 2)
    assert strides_unless_contiguous((2, 3), (0, 1)) == (0, 1)


def test_views_that_overlap():
    kind = np.dtype(np.float32)
    first, second = View(100, (4,), kind, 0), View(112, (4,), kind, 0)
    assert first.overlaps(second)
    assert second.overlaps(first)
    assert not first.overlaps(View(116, (4,), kind, 0))
    assert not first.overlaps(View(112, (4,), kind, 1))
    assert not first.overlaps(View(112, (0,), kind, 0))


def test_too_large_for_one_call():
    with pytest.raises(ValueError, match=r"too large for one call .* Split the batch"):
        forward(Convolution((1 << 20, 256, 256, 1), (3, 3, 1, 8), same=True), False, False)
    with pytest.raises(ValueError, match=r"`inputs` has images of .* Cut the images"):
        forward(Convolution((1, 1 << 16, 1 << 15, 4), (3, 3, 4, 8)), False, False)


def test_slices_of_a_reduction():
    for pixels in (0, 1, 7, 1000, 123457):
        count, each = plans.slices(pixels, 4, 100, 64)
        assert count * each >= pixels
        assert (count - 1) * each < max(pixels, 1)
        assert count >= 1


def test_a_plan_is_made_once_for_each_shape():
    c = Convolution((4, 14, 14, 8), (3, 3, 8, 16), same=True)
    assert grad_weights(c, True) is grad_weights(
        Convolution((4, 14, 14, 8), (3, 3, 8, 16), same=True), True
    )


@pytest.mark.parametrize("error", ["", "CUDA_ERROR_INVALID_VALUE"])
def test_large_shared_memory_is_requested(monkeypatch, error):
    asked = []

    class Answer(SimpleNamespace):
        def __bool__(self):
            return bool(self.name)

    def set_attribute(*arguments):
        asked.append(arguments)
        return (Answer(name=error),)

    driver = object.__new__(driver_module.Driver)
    driver._loaded, driver._loading = {}, threading.Lock()
    driver._bindings = SimpleNamespace(
        CUfunction_attribute=SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8),
        cuKernelSetAttribute=set_attribute,
        CUkernel=lambda handle: ("kernel", handle),
        CUdevice=lambda number: ("device", number),
    )
    module = SimpleNamespace(get_kernel=lambda symbol: SimpleNamespace(handle=4096))
    driver._core = SimpleNamespace(ObjectCode=SimpleNamespace(from_cubin=lambda code: module))
    monkeypatch.setattr(
        driver_module, "cached_kernel", lambda kernel, capability: Compiled(b"", "k")
    )
    device = SimpleNamespace(device_id=0, compute_capability=(9, 0))
    small = forward(Convolution((1, 8, 8, 2), (3, 3, 2, 4)), False, False).launches[0].kernel
    driver._load(small, device)
    assert not asked
    large = halo_convolution("tf32", False)
    if error:
        with pytest.raises(CudaUnavailableError, match=rf"81920 bytes of shared memory .*{error}"):
            driver._load(large, device)
        assert len(driver._loaded) == 1
    else:
        driver._load(large, device)
    assert asked == [(8, 81920, ("kernel", 4096), ("device", 0))]
