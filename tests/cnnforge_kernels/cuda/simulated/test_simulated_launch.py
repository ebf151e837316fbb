"""Tests of the public functions on arrays of a device, with kernels in the simulator."""

import ctypes

import numpy as np
import pytest

import cnnforge_kernels as kernels
from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_kernels.cuda import launch
from cnnforge_kernels.cuda.codegen.errors import CudaUnavailableError
from cnnforge_kernels.cuda.runtime import driver as driver_module
from cnnforge_kernels.cuda.runtime.arrays import DeviceArray
from cnnforge_kernels.cuda.runtime.simulated_driver import Allocation, Driver


class Array:
    """Looks like an array of another library on a device."""

    def __init__(self, values, device=0, read_only=False):
        self.values, self.device, self.read_only = values, device, read_only

    shape = property(lambda self: self.values.shape)
    dtype = property(lambda self: self.values.dtype)

    def __dlpack_device__(self):
        return 2, self.device

    @property
    def __cuda_array_interface__(self):
        interface = dict(self.values.__array_interface__)
        return interface | {"data": (interface["data"][0], self.read_only), "version": 3}


class OnlyDlpack:
    """Looks like an array that tells only its device."""

    def __init__(self, values):
        self.values = values

    shape = property(lambda self: self.values.shape)
    dtype = property(lambda self: self.values.dtype)

    def __dlpack_device__(self):
        return 2, 0


class Tensor:
    """Looks like a torch tensor that requires a gradient."""

    class _Device:
        type, index = "cuda", 0

    def __init__(self, values, dtype=None):
        self.values, self.device = values, self._Device()
        self.dtype = f"torch.{dtype or values.dtype}"

    shape = property(lambda self: self.values.shape)

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("this tensor requires a gradient")

    def data_ptr(self):
        return self.values.ctypes.data

    def is_contiguous(self):
        return self.values.flags.c_contiguous

    def stride(self):
        return tuple(step // self.values.itemsize for step in self.values.strides)


@pytest.fixture(autouse=True)
def driver(monkeypatch):
    fake = Driver()
    monkeypatch.setattr(driver_module, "_driver", fake)
    return fake


def values(*shape, seed=0):
    """Make values at a multiple of 16 bytes."""
    random = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    memory = Allocation(random.nbytes).values.view(np.float32).reshape(shape)
    memory[...] = random
    return memory


def numpy(array):
    """Copy a result to a NumPy array."""
    assert isinstance(array, DeviceArray)
    interface = array.__cuda_array_interface__
    assert interface["version"] == 3
    memory = (ctypes.c_char * (array.size * array.dtype.itemsize)).from_address(array.pointer)
    return np.frombuffer(memory, interface["typestr"]).reshape(interface["shape"]).copy()


@pytest.mark.parametrize("array", [Array, OnlyDlpack, Tensor])
def test_arrays_of_other_libraries(array):
    x, w = values(1, 3, 4, 1), values(2, 2, 1, 4)
    assert_close(numpy(kernels.conv2d(array(x), array(w))), reference.conv2d(x, w), 4)


def test_convolution(driver):
    array = Array
    x, w, b = values(1, 4, 5, 4), values(3, 3, 2, 8), values(8)
    options = {"strides": (2, 1), "groups": 2}
    outputs = kernels.conv2d(
        array(x), array(w), array(b), padding="same", activation="relu", stream=1234, **options
    )
    expected = reference.conv2d(x, w, b, same=True, relu=True, **options)
    got = numpy(outputs)
    assert_close(got, expected, 18)
    assert driver.streams == [1234]
    g = values(*got.shape, seed=1)
    gradients = reference.conv2d_gradients(x, w, g, outputs=got, same=True, **options)
    options |= {"padding": "same", "outputs": outputs, "stream": None}
    assert_close(
        numpy(kernels.conv2d_grad_inputs(array(g), array(w), x.shape, **options)), gradients[0], 36
    )
    grad_weights, grad_bias = kernels.conv2d_grad_weights(array(x), array(g), w.shape, **options)
    assert_close(numpy(grad_weights), gradients[1], 18)
    assert_close(numpy(grad_bias), gradients[2], 18)
    assert driver.streams == [1234, 0, 0]
    # The scratch of the reduction is freed in stream order.
    assert [memory.freed for memory in driver.memories].count(True) == 1


def test_depthwise_convolution():
    x, w = values(1, 5, 5, 4), values(3, 3, 4, 2)
    outputs = kernels.depthwise_conv2d(Array(x), Array(w), activation="relu")
    expected = reference.depthwise_conv2d(x, w, relu=True)
    assert_close(numpy(outputs), expected, 9)
    g = values(*expected.shape)
    gradients = reference.depthwise_conv2d_gradients(x, w, g, outputs=numpy(outputs))
    got = kernels.depthwise_conv2d_grad_inputs(Array(g), Array(w), x.shape, outputs=outputs)
    assert_close(numpy(got), gradients[0], 18)
    results = kernels.depthwise_conv2d_grad_weights(Array(x), Array(g), w.shape, outputs=outputs)
    for got, want in zip(results, gradients[1:], strict=True):
        assert_close(numpy(got), want, 9)


def test_conv_block():
    x, w, b = values(1, 4, 6, 2), values(3, 3, 2, 4), values(4)
    outputs, argmax = kernels.conv_block(Array(x), Array(w), Array(b), padding="same")
    whole = reference.conv2d(x, w, b, same=True, relu=True)
    best, cells = reference.max_pool2d(whole)
    assert_close(numpy(outputs), best, 18)
    np.testing.assert_array_equal(numpy(argmax), np.where(best > 0, cells, 255))
    g = values(*best.shape)
    routed = reference.max_pool2d_grad(whole.astype(np.float32), g)
    expected = reference.conv2d_gradients(x, w, routed, outputs=whole, same=True)
    got = kernels.conv_block_grad_inputs(Array(g), argmax, Array(w), x.shape, padding="same")
    results = kernels.conv_block_grad_weights(Array(x), Array(g), argmax, w.shape, padding="same")
    for result, want, count in zip((got, *results), expected, (36, 6, 6), strict=True):
        assert_close(numpy(result), want, count)


def test_pooling():
    x = values(1, 5, 6, 4)
    options = {"pool_size": 3, "strides": 2, "padding": "same"}
    oracle = {"pool_size": (3, 3), "strides": (2, 2), "same": True}
    outputs, argmax = kernels.max_pool2d(Array(x), **options)
    best, cells = reference.max_pool2d(x, **oracle)
    np.testing.assert_array_equal(numpy(outputs), best)
    np.testing.assert_array_equal(numpy(argmax), cells)
    g = numpy(outputs)
    got = kernels.max_pool2d_grad(outputs, argmax, x.shape, **options)
    assert_close(numpy(got), reference.max_pool2d_grad(x, g, **oracle), 9)
    mean = kernels.average_pool2d(Array(x), **options)
    assert_close(numpy(mean), reference.average_pool2d(x, **oracle), 9)
    got = kernels.average_pool2d_grad(outputs, x.shape, **options)
    assert_close(numpy(got), reference.average_pool2d_grad(x, g, **oracle), 9)
    whole = kernels.global_average_pool2d(Array(x))
    assert_close(numpy(whole), reference.global_average_pool2d(x), 30)
    got = kernels.global_average_pool2d_grad(whole, x.shape)
    assert_close(numpy(got), reference.global_average_pool2d_grad(x, numpy(whole)), 1)


def test_an_output_can_be_given():
    x, w = Array(values(1, 5, 5, 2)), Array(values(3, 3, 2, 4))
    out = Array(values(1, 3, 3, 4))
    assert kernels.conv2d(x, w, out=out) is out
    assert_close(out.values, reference.conv2d(x.values, w.values), 18)


def test_arrays_at_odd_addresses_take_no_vectors(driver):
    memory = values(200)
    x = memory[1:101].reshape(1, 5, 5, 4)
    w = values(3, 3, 4, 4)
    assert x.ctypes.data % 16 == 4
    outputs = kernels.conv2d(Array(x), Array(w))
    assert_close(numpy(outputs), reference.conv2d(x, w), 36)


@pytest.mark.parametrize("array", [Array, OnlyDlpack, Tensor])
def test_arrays_that_are_not_contiguous_are_copied(array, driver):
    x = values(1, 4, 5, 2).transpose(0, 2, 1, 3)
    w, b = values(6, 2, 2, 4)[::3].transpose(1, 2, 0, 3), np.broadcast_to(values(1), (4,))
    assert not x.flags.c_contiguous
    outputs = kernels.conv2d(array(x), array(w), array(b), stream=5)
    assert_close(numpy(outputs), reference.conv2d(x, w, b), 8)
    assert driver.kernels.count("dense_copy") == 3
    assert driver.streams == [5] * 4


def test_an_argmax_that_are_not_contiguous_are_copied(driver):
    x = values(1, 4, 4, 2)
    _, cells = reference.max_pool2d(x)
    g = values(*cells.shape)
    argmax = np.repeat(cells.astype(np.uint8), 2, 3)[..., ::2]
    got = kernels.max_pool2d_grad(Array(g), Array(argmax), x.shape)
    np.testing.assert_array_equal(numpy(got), reference.max_pool2d_grad(x, g))
    assert driver.kernels[0] == "dense_copy"


def test_an_empty_batch_launches_nothing(driver):
    outputs = kernels.conv2d(Array(values(0, 5, 5, 2)), Array(values(3, 3, 2, 4)))
    assert outputs.shape == (0, 3, 3, 4)
    assert not driver.streams


class Stream:
    def __init__(self, **attributes):
        self.__dict__ |= attributes


def test_streams():
    assert driver_module.stream_handle(None) == 0
    assert driver_module.stream_handle(7) == 7
    assert driver_module.stream_handle(Stream(cuda_stream=8)) == 8
    assert driver_module.stream_handle(Stream(__cuda_stream__=lambda: (0, 9))) == 9
    assert driver_module.stream_handle(Stream(ptr=10)) == 10
    with pytest.raises(ValueError, match=r"`stream` must be .* Received: str"):
        driver_module.stream_handle("default")


def test_gradient_of_weights_without_a_bias(driver):
    x, g = Array(values(1, 4, 4, 2)), Array(values(1, 2, 2, 4))
    grad_weights, nothing = Array(values(3, 3, 2, 4)), Array(values(0))
    launch.conv2d_grad_weights(
        *(x, grad_weights, nothing, g, (1, 1), False, (1, 1), 1, False),
        *(g, grad_weights, nothing),
    )
    w = values(3, 3, 2, 4, seed=1)
    expected = reference.conv2d_gradients(x.values, w, g.values)[1]
    assert_close(grad_weights.values, expected, 4)
    assert all(memory.freed for memory in driver.memories)


def test_tensor_cores_need_a_device_that_has_them(driver):
    with pytest.raises(CudaUnavailableError, match=r"compute capability 8.0 .* Received: 7.5"):
        kernels.conv2d(Array(values(1, 5, 5, 4)), Array(values(3, 3, 4, 4)), precision="tf32")
    assert not driver.streams


X, W, BYTES = values(1, 5, 5, 2), values(3, 3, 2, 4), np.zeros(4 * 50, np.uint8)
MISTAKES = {
    "two devices": (
        lambda: kernels.conv2d(Array(X), Array(W, device=1)),
        "`inputs` on device 0 and `weights` on device 1",
    ),
    "host and device": (
        lambda: kernels.conv2d(Array(X), W),
        "`weights` must be on the device of the other arrays. Received: ndarray in host memory",
    ),
    "device and host": (lambda: kernels.conv2d(X, Array(W)), "`inputs` must be on the device"),
    "rank": (lambda: kernels.conv2d(Array(X[0]), Array(W)), "of rank 4. Received: float32"),
    "dtype": (lambda: kernels.conv2d(Array(X.astype("d")), Array(W)), "Received: float64"),
    "tensor's dtype": (
        lambda: kernels.conv2d(Tensor(X, "bfloat16"), Tensor(W)),
        "`inputs` must be float32.* Received: bfloat16",
    ),
    "out strides": (
        lambda: kernels.max_pool2d(Array(X), pool_size=1, out=Array(values(1, 5, 5, 4)[..., ::2])),
        r"`out` must be C-contiguous. Received: strides of \(100, 20, 4, 2\) elements",
    ),
    "broken addresses": (
        lambda: kernels.max_pool2d(Array(np.zeros((1, 5, 5), "f4, i2")["f0"][..., None])),
        r"`inputs` must have elements at multiples of their size. Received: strides of",
    ),
    "out shape": (
        lambda: kernels.conv2d(Array(X), Array(W), out=Array(values(1, 3, 3, 5))),
        r"`out` must be .* \(1, 3, 3, 4\). Received: float32 \(1, 3, 3, 5\)",
    ),
    "read-only": (
        lambda: kernels.conv2d(Array(X), Array(W), out=Array(values(1, 3, 3, 4), read_only=True)),
        "`out` must be a writeable",
    ),
    "overlap": (
        lambda: kernels.max_pool2d(Array(X), pool_size=1, out=Array(X)),
        "must not overlap",
    ),
    "host out": (
        lambda: kernels.conv2d(Array(X), Array(W), out=np.zeros((1, 3, 3, 4), np.float32)),
        "`outputs` must be on the device of the other arrays",
    ),
    "mask": (
        lambda: kernels.conv2d_grad_inputs(
            Array(values(1, 3, 3, 4)), Array(W), X.shape, outputs=Array(values(1, 2, 3, 4))
        ),
        "`outputs` must have shape",
    ),
    "argmax": (
        lambda: kernels.max_pool2d_grad(
            Array(values(1, 2, 2, 2)), Array(np.zeros((1, 2, 2, 2), np.int64)), X.shape
        ),
        "`argmax` must be uint8 or int32",
    ),
    "argmax and out": (
        lambda: kernels.max_pool2d_grad(
            Array(X[:, ::2, ::2].copy()),
            Array(BYTES[:18].reshape(1, 3, 3, 2)),
            X.shape,
            padding="same",
            out=Array(BYTES.view(np.float32).reshape(X.shape)),
        ),
        "must not overlap",
    ),
    "shape": (
        lambda: kernels.max_pool2d_grad(Array(X), Array(BYTES), (1, 5, 5)),
        r"`input_shape` must be a shape: four integers.* Received: \(1, 5, 5\)",
    ),
    "stream": (lambda: kernels.conv2d(X, W, stream=1), "`stream` is for arrays on a device"),
    "precision": (lambda: kernels.conv2d(X, W, precision="tf32"), "for NumPy arrays"),
    "no precision": (lambda: kernels.conv2d(X, W, precision="half"), "`precision` must be one of"),
    "pool": (
        lambda: kernels.conv_block(Array(X), Array(W), pool_size=16),
        "`pool_size` must be at most 15",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name, driver):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        call()
    assert not driver.streams
