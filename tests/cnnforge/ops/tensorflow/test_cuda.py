"""Tests of the routes to TensorFlow's CUDA devices, without a device: the choice, and errors.

The tests register kernels for a CUDA device as kernels for the CPU, so that graphs run them with
pointers of the host. Stand-ins for TensorFlow's stream and for `cuLaunchKernel` compute.
"""

import ctypes
import resource
import sys
import threading
from types import ModuleType, SimpleNamespace

import keras
import numba
import numpy as np
import pytest
import tensorflow as tf

from cnnforge.errors import UsageError
from cnnforge.ops import ArrayOp, cuda_module
from cnnforge.ops import tensorflow as route
from cnnforge.ops.tensorflow import cuda as cuda_route
from cnnforge.ops.tensorflow import registration
from cnnforge.ops.tensorflow.cuda import dlpack, probe, self_test, stream
from cnnforge.ops.tensorflow.cuda import registration as cuda_registration

if keras.backend.backend() != "tensorflow":
    pytest.skip("the Keras backend is another one", allow_module_level=True)

STREAM, FUNCTION, DEVICE = 0xABC0, 0xF00, 3
SCRATCH = 1 << 56
_kept: list[object] = []


@numba.njit(cache=True)
def fold(inputs, factor, shift, outputs):
    for i in range(outputs.size):
        outputs[i] = factor[0] * inputs[i] + np.float32(shift)


@numba.njit(cache=True)
def fold_backward(factor, grad_outputs, grad_inputs):
    for i in range(grad_inputs.size):
        grad_inputs[i] = factor[0] * grad_outputs[i]


def floats(address, size):
    return np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))


class Cuda(ModuleType):
    """The module that an op names as `cuda`, and a stand-in for the driver.

    The kernel: target[i] = factor * source[i] + shift, through memory that begins `offset` bytes
    behind `scratch`.
    """

    def __init__(self, name):
        super().__init__(name)
        self.launches, self.recorded, self.reason, self.error = [], [], None, 0
        self.memories, self.raised, self.stream_error = [(SCRATCH, 1024)], None, 0
        self.scratch = SCRATCH + 256
        word, number = ctypes.c_void_p, ctypes.c_uint
        self.stream_c = ctypes.CFUNCTYPE(
            ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64)
        )(self.stream)
        self.launch_c = ctypes.CFUNCTYPE(
            ctypes.c_int, word, *[number] * 7, word, ctypes.POINTER(word), word
        )(self.launch)
        addresses = [
            ctypes.cast(it, ctypes.c_void_p).value or 0 for it in (self.stream_c, self.launch_c)
        ]
        self.kernels = cuda_registration.CudaKernels("GPU", *addresses)
        _kept.append(self)

    def stream(self, context, found):
        found[0], found[1] = STREAM, DEVICE
        return self.stream_error

    def launch(self, *arguments):
        *numbers, places, extra = arguments
        kinds = [ctypes.c_uint64] * 4 + [ctypes.c_int64, ctypes.c_float, ctypes.c_uint64]
        *values, first = [kind.from_address(places[i]).value for i, kind in enumerate(kinds)]
        assert extra is None
        assert values[3] - first == 256
        self.launches.append((numbers, values))
        if self.error:
            return self.error
        source, factor, target, scratch, count, shift = values
        # All of it, so that it counts as used.
        ctypes.memset(scratch, 0, self.memories[0][1] - (self.scratch - SCRATCH))
        floats(scratch, count)[:] = floats(factor, 1)[0] * floats(source, count)
        floats(target, count)[:] = floats(scratch, count) + np.float32(shift)
        return 0

    def missing(self):
        return self.reason

    def record(self, call):
        self.recorded.append([])
        if self.raised:
            raise self.raised
        call()
        return self.recorded[-1], self.memories

    def note(self, source, factor, target, shift, stream):
        assert stream == 0
        assert target.device == DEVICE
        if not target.shape[0]:
            return
        grid = (target.shape[0], 2, 1)
        numbers = np.int64(target.shape[0]), np.float32(shift)
        pointers = (source.pointer, factor.pointer, target.pointer, self.scratch)
        launch = SimpleNamespace(function=FUNCTION, grid=grid, block=32, shared=64)
        launch.arguments = (*pointers, *numbers, self.memories[0][0])
        self.recorded[-1].append(launch)

    def fold(self, inputs, factor, shift, outputs, stream):
        self.note(inputs, factor, outputs, shift, stream)

    def fold_backward(self, factor, grad_outputs, grad_inputs, stream):
        self.note(grad_outputs, factor, grad_inputs, 0.0, stream)


@pytest.fixture
def cuda(monkeypatch):
    module = Cuda(f"a_cuda_module_{len(_kept)}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def define(module, /, **keywords):
    """Return an op that is not registered yet."""
    return ArrayOp(
        module.__name__,
        **{
            "forward": fold,
            "backward": fold_backward,
            "inputs": {"inputs": 1, "factor": 1},
            "outputs": {"outputs": 1},
            "output_shapes": lambda inputs: inputs,
            "attributes": {"shift": 0.5},
            "not_differentiable": ("factor",),
            "cuda": module.__name__,
            **keywords,
        },
    )


@pytest.fixture
def op(cuda, monkeypatch):
    """Return an op whose kernel for CUDA devices runs on TensorFlow's CPU."""
    register_kernel = registration._register_kernel

    def elsewhere(name, kind, state_of, address):
        if kind == "GPU":
            register_kernel(name, "CPU", state_of, address)

    chosen = cuda_route.Choice("stream", "set by the test", cuda.kernels)
    monkeypatch.setattr(cuda_route, "_choice", chosen)
    monkeypatch.setattr(registration, "_register_kernel", elsewhere)
    monkeypatch.setattr(route, "_choice", route._Choice(registration, "c_api", "set by the test"))
    monkeypatch.setattr(registration, "cuda_kernels", cuda_route.kernels)
    made = define(cuda)
    registration.register(made)
    return made


def pointer(tensor):
    return np.asarray(tensor).ctypes.data


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_values_gradients_and_arguments(op, cuda, graph):
    def compute(inputs, factor):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = op(inputs, factor, shift=0.25)
        return outputs, tape.gradient(outputs, inputs)

    inputs, factor = tf.constant([1.0, 2.0, 3.0]), tf.constant([2.0])
    for _ in range(2):
        outputs, gradient = (tf.function(compute) if graph else compute)(inputs, factor)
        assert outputs.numpy().tolist() == [2.25, 4.25, 6.25]
        assert gradient.numpy().tolist() == [2.0, 2.0, 2.0]
    assert len(cuda.recorded) == 2
    assert len(cuda.launches) == 4
    forward = [it for it in cuda.launches if it[1][-1] == 0.25][-1]
    numbers, (source, by, target, scratch, count, shift) = forward
    assert numbers == [FUNCTION, 3, 2, 1, 32, 1, 1, 64, STREAM]
    assert (source, by, count, shift) == (pointer(inputs), pointer(factor), 3, 0.25)
    assert graph or target == pointer(outputs)
    # TensorFlow's memory begins at multiples of 64 bytes; the recording asked for its byte 256.
    assert scratch % 64 == 0
    assert scratch not in (source, by, target)


def test_every_shape_attribute_and_device_has_a_recipe(op, cuda, monkeypatch):
    factor, asked, step_of = tf.constant([2.0]), [], cuda_registration.step_of
    monkeypatch.setattr(
        cuda_registration, "step_of", lambda number: asked.append(number) or step_of(number)
    )
    for size in (1, 2, 3, 2, 1, 3, 0):
        assert op(tf.ones([size]), factor).shape == [size]
    # Python makes each recipe once.
    assert len(cuda.recorded) == len(asked) == 4
    op(tf.ones([3]), factor, shift=0.25)
    assert len(cuda.recorded) == 5
    monkeypatch.setattr(sys.modules[__name__], "DEVICE", 1)
    assert op(tf.ones([3]), factor).numpy().tolist() == [2.5] * 3
    assert len(cuda.recorded) == 6


def test_many_threads_meet_a_new_shape(op, cuda):
    factor, results = tf.constant([3.0]), []
    begin = threading.Barrier(8)

    def work():
        begin.wait()
        for size in range(1, 20):
            results.append((op(tf.ones([size]), factor).numpy() == 3.5).all())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 * 19
    assert all(results)
    assert len(cuda.recorded) == 19


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"stream_error": 1}, "TensorFlow computes on a device that has no CUDA stream"),
        ({"error": 700}, "cuLaunchKernel returned the CUDA error 700"),
        ({"raised": ValueError("too large for one call")}, "ValueError: too large for one call"),
        ({"scratch": 12345}, "launches a kernel with a pointer that is not into a tensor: 0x3039"),
        ({"scratch": SCRATCH + 1024}, "a pointer that is not into a tensor"),
        ({"memories": [(SCRATCH, 1 << 60)]}, "(?i)oom|alloc"),
    ],
)
def test_an_error_names_the_op(op, cuda, wrong, named):
    before = {key: getattr(cuda, key) for key in wrong}
    vars(cuda).update(wrong)
    errors = (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError)
    with pytest.raises(errors, match=named) as caught:
        op(tf.ones([2]), tf.ones([1]))
    if "memories" not in wrong:
        assert f"ArrayOp {op.name!r}: the forward function 'fold'" in str(caught.value)
    vars(cuda).update(before)
    assert op(tf.ones([3]), tf.ones([1])).numpy().tolist() == [1.5] * 3


def test_memory_does_not_grow(op, cuda):
    cuda.memories = [(SCRATCH, 1 << 22)]
    inputs, factor = tf.ones([1 << 10]), tf.ones([1])

    def call():
        outputs = op(inputs, factor)
        cuda.launches.clear()
        return outputs

    for _ in range(20):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        call()
    # If each call kept its buffer of 4 MiB, this would be 800 MiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 17


def test_registration_for_a_device_that_does_not_exist(cuda, monkeypatch):
    """The CPU computes as usual if a device is hidden from TensorFlow."""
    from tensorflow.python.framework import kernels

    op = define(cuda)
    registration.register_steps(op, cuda.kernels)
    name = registration.type_name(op.forward_step)
    found = kernels.get_registered_kernels_for_op(name).kernel
    assert sorted(kernel.device_type for kernel in found) == ["CPU", "GPU"]
    (outputs,) = registration.call(op, [tf.ones([2]), tf.ones([1])], {"shift": 0.5})
    assert outputs.numpy().tolist() == [1.5, 1.5]
    assert not cuda.recorded


# The choice.


def test_without_a_device_nothing_is_tried(cuda, monkeypatch):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees a device")
    monkeypatch.setattr(cuda_route, "_choice", None)
    for name in ("_try_stream", "_try_dlpack", "missing"):
        monkeypatch.setattr(cuda_route, name, lambda *_: pytest.fail("it was tried"))
    op = define(cuda)
    assert cuda_route.kernels(op) is None
    assert not cuda_route.hands_over(op)
    assert cuda_route.describe() == "GPU: none (TensorFlow sees none)"
    assert route.describe().endswith("; GPU: none (TensorFlow sees none)")
    with pytest.raises(UsageError, match="GPU=stream does not work: TensorFlow sees none"):
        cuda_route._decide("stream")
    with pytest.raises(UsageError, match="is 'on', expected auto, stream, dlpack or off"):
        cuda_route._decide("on")
    assert cuda_route._decide("off").reason == "CNNFORGE_TENSORFLOW_GPU=off"
    monkeypatch.setattr(cuda_route, "_no_device", cuda_route._no_device.__wrapped__)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    assert cuda_route._decide("auto").reason == "this TensorFlow is built without CUDA"


def test_dlpack_is_taken_if_the_stream_cannot_be_found(cuda, monkeypatch):
    def no_compiler():
        raise stream.NoStreamError("no C++ compiler was found; install one: apt install g++")

    tried = []
    monkeypatch.setattr(cuda_route, "_no_device", lambda: None)
    monkeypatch.setattr(stream, "stream_function", no_compiler)
    monkeypatch.setattr(self_test, "run", tried.append)
    choice = cuda_route._decide("auto")
    assert tried == [dlpack.call]
    assert (choice.way, choice.kernels) == ("dlpack", None)
    assert choice.reason == (
        "stream: no C++ compiler was found; install one: apt install g++; its self-test passed"
    )
    with pytest.raises(UsageError, match="GPU=stream does not work: stream: no C"):
        cuda_route._decide("stream")
    assert cuda_route._decide("dlpack").reason == "its self-test passed"
    monkeypatch.setattr(cuda_route, "_choice", choice)
    op = define(cuda)
    assert cuda_route.hands_over(op)
    assert cuda_route.kernels(op) is None
    assert cuda_route.describe().startswith("GPU: handed over by DLPack, waiting for the device (")
    cuda.reason = "numba-cuda is not installed"
    assert not cuda_route.hands_over(op)

    def wrong(call):
        raise RuntimeError("the self-test gave [1.0]")

    monkeypatch.setattr(self_test, "run", wrong)
    choice = cuda_route._decide("auto")
    assert choice.way == "off"
    assert choice.reason.endswith("apt install g++; dlpack: the self-test gave [1.0]")


def test_the_stream_is_taken_first(cuda, monkeypatch):
    def run(call):
        assert call(define(cuda), [tf.ones([1]), tf.ones([1])], {"shift": 1.0})[0] == 2.0

    monkeypatch.setattr(cuda_route, "_no_device", lambda: None)
    monkeypatch.setattr(stream, "stream_function", lambda: cuda.kernels.stream)
    monkeypatch.setattr(probe, "launch_function", lambda: cuda.kernels.launch)
    monkeypatch.setattr(self_test, "run", run)
    choice = cuda_route._decide("auto")
    assert (choice.way, choice.kernels) == ("stream", cuda.kernels)
    monkeypatch.setattr(cuda_route, "_choice", choice)
    monkeypatch.setattr(cuda_route, "registered_ops", lambda: [define(cuda)])
    assert cuda_route.describe() == (
        "GPU: launched on TensorFlow's own stream (experimental: not yet run on a device; "
        "its self-test passed)"
    )
    other = define(cuda, cuda=None)
    assert cuda_route.kernels(other) is None
    assert cuda_module.missing(other) == "no implementation for CUDA devices"


def test_the_routes_to_a_device_are_off_by_default(cuda, monkeypatch):
    for name in ("_try_stream", "_try_dlpack", "missing"):
        monkeypatch.setattr(cuda_route, name, lambda *_: pytest.fail("it was tried"))
    monkeypatch.setattr(cuda_route, "_no_device", lambda: None)
    monkeypatch.setattr(cuda_route, "_choice", None)
    monkeypatch.delenv("CNNFORGE_TENSORFLOW_GPU")
    op = define(cuda)
    assert cuda_route.kernels(op) is None
    assert not cuda_route.hands_over(op)
    assert cuda_route.describe() == (
        "GPU: none (experimental: not yet run on a device; "
        "CNNFORGE_TENSORFLOW_GPU=auto switches it on)"
    )


def test_nothing_is_compiled_for_ops_that_cannot_use_it(cuda, monkeypatch):
    def decide(wanted):
        pytest.fail("it was tried")

    monkeypatch.setattr(cuda_route, "_choice", None)
    monkeypatch.setattr(cuda_route, "_no_device", lambda: None)
    monkeypatch.setattr(cuda_route, "_decide", decide)
    cuda.reason = "numba-cuda is not installed"
    assert cuda_route.kernels(define(cuda)) is None
    monkeypatch.setattr(
        cuda_route, "_choice", cuda_route.Choice("stream", "it works", cuda.kernels)
    )
    monkeypatch.setattr(
        cuda_route, "registered_ops", lambda: [define(cuda), define(cuda, cuda=None)]
    )
    assert cuda_route.describe() == (
        "GPU: launched on TensorFlow's own stream (experimental: not yet run on a device; "
        "it works); some ops on the CPU: "
        "numba-cuda is not installed"
    )


def test_a_module_that_cannot_record(cuda, monkeypatch):
    """Such a module serves the torch backend; under TensorFlow its op stays on the CPU."""
    monkeypatch.setattr(cuda_route, "_choice", cuda_route.Choice("stream", "", cuda.kernels))
    monkeypatch.setitem(sys.modules, "plain_cuda", ModuleType("plain_cuda"))
    op = define(cuda, cuda="plain_cuda")
    assert cuda_module.missing(op) == "plain_cuda has no function 'record'"
    assert cuda_route.kernels(op) is None
    lost = define(cuda, cuda="no_such_module")
    assert cuda_module.missing(
        lost
    ) == "no_such_module cannot be imported: No module named " + repr("no_such_module")
    monkeypatch.setenv("CNNFORGE_TENSORFLOW_GPU", "stream")
    with pytest.raises(UsageError, match=r"GPU=stream does not work for the op .*: plain_cuda has"):
        cuda_route.kernels(op)
    assert cuda_route.kernels(define(cuda, cuda=None)) is None


# The self-test.


def test_the_self_test_fails_on_wrong_devices():
    def on_the_cpu(op, tensors, values):
        return [op.run(*(tensor.numpy() for tensor in tensors), **values)]

    if not tf.config.list_physical_devices("GPU"):
        with pytest.raises(RuntimeError, match=r"the self-test ran on .*CPU:0"):
            self_test.run(lambda op, tensors, values: [tf.identity(tensors[0])])
    op = self_test.make_op()
    arrays = np.float32([1, 2, 3]), np.float32([2])
    assert op.run(*arrays, offset=0.25).tolist() == [2.25, 4.25, 6.25]
    assert cuda_module.missing(op) is None
    assert on_the_cpu(op, [tf.constant(it) for it in arrays], {})[0].tolist() == [3.5, 5.5, 7.5]


def test_the_recording_of_the_self_test(monkeypatch):
    monkeypatch.setattr(probe, "_function", lambda: FUNCTION)
    op = self_test.make_op()
    made = cuda_module.record(op, op.forward_step, [(3,), (1,), (3,)], {"offset": 0.25}, 0, True)
    (launch,) = made.launches
    assert (launch.function, launch.grid, launch.block, launch.shared) == (
        FUNCTION,
        (1, 1, 1),
        32,
        0,
    )
    addresses = [address for address, _ in (*made.tensors, *made.memories)]
    assert list(launch.arguments) == [*addresses, np.uint32(3), np.float32(0.25)]
    assert [type(it).__name__ for it in launch.arguments[4:]] == ["uint32", "float32"]


@pytest.mark.parametrize("arch", ["sm_75", "sm_90", "sm_120"])
def test_the_kernel_of_the_self_test_is_assembled(arch):
    core = pytest.importorskip("cuda.core", reason="numba-cuda is not installed")
    code = core.ObjectCode.from_ptx(probe.PTX.rstrip(b"\0"))
    linker = core.Linker(code, options=core.LinkerOptions(arch=arch))
    assert b"cnnforge_affine" in bytes(linker.link("cubin").code)


# DLPack.


@pytest.fixture
def handed_over(cuda, monkeypatch):
    """Return an op whose tensors are passed by DLPack to a device that uses the host's memory."""
    events = []

    def function(source, factor, target, shift, stream):
        events.append((source.pointer, factor.pointer, target.pointer))
        assert stream == 1
        assert {array.device for array in (source, factor, target)} == {0}
        floats(target.pointer, target.shape[0])[:] = (
            floats(factor.pointer, 1)[0] * floats(source.pointer, source.shape[0]) + shift
        )

    monkeypatch.setattr(cuda, "note", function)
    monkeypatch.setattr(dlpack, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr(dlpack, "_on_device", lambda tensor: True)
    monkeypatch.setattr(cuda_route, "_choice", cuda_route.Choice("dlpack", "set by the test"))
    monkeypatch.setattr(route, "_choice", route._Choice(registration, "c_api", "set by the test"))
    monkeypatch.setattr(registration, "cuda_kernels", cuda_route.kernels)
    return define(cuda), events


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_dlpack(handed_over, graph):
    op, events = handed_over

    def compute(inputs, factor):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = op(inputs, factor)
        return outputs, tape.gradient(outputs, inputs)

    inputs, factor = tf.constant([1.0, 2.0]), tf.constant([2.0])
    outputs, gradient = (tf.function(compute) if graph else compute)(inputs, factor)
    assert outputs.shape == [2]
    assert outputs.numpy().tolist() == [2.5, 4.5]
    assert gradient.numpy().tolist() == [2.0, 2.0]
    assert [event == "wait" for event in events] == [True, False, True] * 2
    assert events[1][:2] == (pointer(inputs), pointer(factor))
    assert graph or events[1][2] == pointer(outputs)


def test_dlpack_where_the_op_was_placed_on_the_cpu(handed_over, monkeypatch):
    op, events = handed_over
    monkeypatch.setattr(dlpack, "_on_device", lambda tensor: False)
    with tf.GradientTape() as tape:
        inputs = tf.constant([1.0, 2.0])
        tape.watch(inputs)
        outputs = op(inputs, tf.constant([2.0]))
    assert outputs.numpy().tolist() == [2.5, 4.5]
    assert tape.gradient(outputs, inputs).numpy().tolist() == [2.0, 2.0]
    assert not events


def test_dlpack_refuses_second_order_gradients(handed_over):
    op, _ = handed_over
    inputs = tf.constant([1.0, 2.0])
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            outputs = op(inputs, tf.constant([2.0]))
        gradient = inner.gradient(outputs, inputs)
    with pytest.raises(NotImplementedError, match="gradients of gradients"):
        outer.gradient(gradient, inputs)


def test_dlpack_errors_name_the_op(handed_over, cuda, monkeypatch):
    op, _ = handed_over

    def fails(*arguments):
        raise RuntimeError("cuCtxSynchronize returned the CUDA error 700")

    monkeypatch.setattr(cuda, "note", fails)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{op.name}.*CUDA error 700"):
        op(tf.ones([2]), tf.ones([1]))
