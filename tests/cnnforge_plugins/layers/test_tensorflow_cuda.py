"""The layers on TensorFlow's CUDA devices, with no device.

What is registered for such a device is registered for the CPU here, under other names: a graph
runs it with pointers of the host. Stand-ins for TensorFlow's stream and for `cuLaunchKernel` note
what is launched. The last test runs this file again in Numba's CUDA simulator, where the stand-in
executes the kernels: there values and gradients are those of the CPU.
"""

import ctypes
import importlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from cnnforge.testing import assert_close
from cnnforge_kernels.cuda import launch
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED
from cnnforge_kernels.cuda.runtime import driver as runtime
from cnnforge_kernels.cuda.runtime import simulated_driver
from cnnforge_plugins.layers.conv2d import Conv2D
from cnnforge_plugins.layers.conv_block2d import ConvBlock2D
from cnnforge_plugins.layers.depthwise_conv2d import DepthwiseConv2D
from cnnforge_plugins.layers.global_average_pooling2d import GlobalAveragePooling2D
from cnnforge_plugins.layers.pooling import AveragePooling2D, MaxPooling2D

if keras.backend.backend() != "tensorflow":
    pytest.skip("the Keras backend is another one", allow_module_level=True)
if not AVAILABLE:
    pytest.skip("needs numba-cuda: pip install 'cnnforge[test]'", allow_module_level=True)

import tensorflow as tf

from cnnforge.ops import ArrayOp, cuda_module
from cnnforge.ops import tensorflow as route
from cnnforge.ops.tensorflow import compute as cpu_compute
from cnnforge.ops.tensorflow import cuda as cuda_route
from cnnforge.ops.tensorflow import registration
from cnnforge.ops.tensorflow.cuda import compute as cuda_compute
from cnnforge.ops.tensorflow.cuda import registration as cuda_registration

STREAM = 77
SHAPE = (1, 5, 6, 4)
MODULE = "cnnforge_plugins.layers."
# name -> (layer, its module and op, kernels of the forward pass, kernels of the gradients)
LAYERS = {
    "conv2d": (
        lambda: Conv2D(8, 3, padding="same", activation="relu"),
        ("conv2d", "conv2d"),
        ["conv2d_direct"],
        ["conv2d_grad_inputs", "conv2d_grad_weights", "reduce_slices"],
    ),
    "conv2d without bias": (
        lambda: Conv2D(130, 2, strides=(2, 1), use_bias=False),
        ("conv2d", "conv2d"),
        ["conv2d_gemm"],
        ["conv2d_grad_inputs", "conv2d_grad_weights", "reduce_slices"],
    ),
    "conv_block2d": (
        lambda: ConvBlock2D(4, 3, padding="same", pool_size=2),
        ("conv_block2d", "conv_block"),
        ["conv_block"],
        ["conv_block_grad_inputs", "conv_block_grad_weights", "reduce_slices"],
    ),
    "depthwise_conv2d": (
        lambda: DepthwiseConv2D(3, activation="relu"),
        ("depthwise_conv2d", "depthwise_conv2d"),
        ["depthwise_conv2d"],
        ["depthwise_grad_inputs", "depthwise_grad_weights", "reduce_slices"],
    ),
    "max_pooling2d": (
        lambda: MaxPooling2D(2),
        ("pooling", "max_pool2d"),
        ["max_pool2d"],
        ["max_pool2d_grad"],
    ),
    "max_pooling2d of a large window": (
        lambda: MaxPooling2D(17, padding="same"),
        ("pooling", "max_pool2d_large"),
        ["max_pool2d"],
        ["max_pool2d_grad"],
    ),
    "average_pooling2d": (
        lambda: AveragePooling2D(3, strides=2, padding="same"),
        ("pooling", "average_pool2d"),
        ["average_pool2d"],
        ["average_pool2d_grad"],
    ),
    "global_average_pooling2d": (
        GlobalAveragePooling2D,
        ("global_average_pooling2d", "global_average_pool2d"),
        ["global_average_pool2d"],
        ["global_average_pool2d_grad"],
    ),
}
_twins: dict[str, ArrayOp] = {}
_kept: list[object] = []


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Device:
    """Whoever holds the address of the two C functions reaches the driver of the running test."""

    driver = simulated_driver.Driver()

    def __init__(self):
        @ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64))
        def stream(context, found):
            found[0], found[1] = STREAM, 0
            return 0

        self.stream, self.launch = stream, self.driver.launch_kernel()
        addresses = [
            ctypes.cast(array, ctypes.c_void_p).value or 0 for array in (self.stream, self.launch)
        ]
        self.kernels = cuda_registration.CudaKernels("GPU", *addresses)


DEVICE = Device()


def twin(op):
    """The same op under another name: the op itself may be registered for the CPU already."""
    if op.name not in _twins:
        definition = op._definition
        _twins[op.name] = ArrayOp(
            f"on_cuda_{op.name}",
            forward=definition.forward.function,
            backward=tuple(step.function for step in op.backward_steps),
            inputs={item.name: item.type for item in op.inputs},
            outputs={item.name: item.type for item in op.outputs},
            output_shapes=definition.shape_rule,
            attributes={item.name: item.default for item in definition.attributes},
            cuda=op.cuda,
        )
    return _twins[op.name]


@pytest.fixture
def device(monkeypatch):
    """From here on the CPU is a CUDA device; returns the stand-in for its driver."""
    register_kernel = registration._register_kernel

    def elsewhere(name, kind, state_of, address):
        if kind == "GPU":
            register_kernel(name, "CPU", state_of, address)

    driver = DEVICE.driver
    for noted in (driver.launches, driver.streams):
        noted.clear()
    choice = cuda_route.Choice("stream", "a test", DEVICE.kernels)
    monkeypatch.setattr(registration, "_register_kernel", elsewhere)
    monkeypatch.setattr(cuda_route, "_choice", choice)
    monkeypatch.setattr(launch, "missing", lambda: None)
    monkeypatch.setattr(runtime, "_driver", driver)
    monkeypatch.setattr(route, "_choice", route._Choice(registration, "c_api", "a test"))
    monkeypatch.setattr(registration, "cuda_kernels", cuda_route.kernels)
    for _, (module, name), *_ in LAYERS.values():
        op = getattr(importlib.import_module(MODULE + module), name)
        monkeypatch.setattr(f"{MODULE}{module}.{name}", twin(op))
    return driver


def make(name, shape=SHAPE):
    layer = LAYERS[name][0]()
    layer.build(shape)
    for seed, variable in enumerate(layer.variables):
        variable.assign(random(*variable.shape, seed=10 + seed))
    return layer


def compute(layer, inputs, grads):
    """Outputs, and the gradients of the inputs and the variables."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs)
    sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
    return outputs, *tape.gradient(outputs, sources, output_gradients=grads)


def arrays_of(name, layer, images=1):
    inputs = tf.constant(random(images, *SHAPE[1:]))
    return inputs, tf.constant(random(*layer.compute_output_shape(inputs.shape), seed=1))


def pointer(tensor):
    return np.asarray(tf.convert_to_tensor(tensor)).ctypes.data


@pytest.mark.skipif(SIMULATED, reason="the simulator executes the kernels: see the next test")
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_launched(name, device):
    layer = make(name)
    inputs, grads = arrays_of(name, layer)
    outputs, *gradients = compute(layer, inputs, grads)
    *_, forward, backward = LAYERS[name]
    assert device.kernels == forward + backward
    assert set(device.streams) == {STREAM}
    # The tensors' own memory, nothing copied; besides them the winners and what is temporary.
    pointers = [
        [value for value, kind in zip(arguments, kernel.arguments, strict=True) if "*" in kind]
        for kernel, _, arguments in device.launches
    ]
    variables = {pointer(variable.value) for variable in layer.variables}
    own = {pointer(tensor) for tensor in (inputs, outputs, grads, *gradients)} | variables
    assert set(pointers[0]) >= {pointer(inputs), pointer(outputs)} | variables
    others = set().union(*pointers) - own
    winners = name.startswith("max_pooling2d") or name == "conv_block2d"
    assert len(others) == winners + bool(variables) + (name == "conv2d without bias")


@pytest.mark.skipif(SIMULATED, reason="the simulator executes the kernels")
@pytest.mark.parametrize("name", LAYERS)
def test_grids_and_numbers_are_those_of_the_launch_layer(name, device):
    """In a graph with an unknown batch: the recipes are made when it runs."""
    layer = make(name)
    shapes = [(None, *array.shape[1:]) for array in arrays_of(name, layer)]
    step = tf.function(
        lambda inputs, grads: compute(layer, inputs, grads),
        input_signature=[tf.TensorSpec(shape) for shape in shapes],
    )
    for images in (1, 3):
        device.launches.clear()
        step(*arrays_of(name, layer, images))
        expected = simulated_driver.Driver()
        with runtime.driven_by(expected):
            directly(name, layer, images)
        assert sorted(map(plain, device.launches)) == sorted(map(plain, expected.launches))


def plain(launched):
    kernel, grid, arguments = launched
    numbers = [
        value for value, kind in zip(arguments, kernel.arguments, strict=True) if "*" not in kind
    ]
    return kernel.name, grid, numbers


def directly(name, layer, images):
    """The functions of `launch`, called with arrays that lie nowhere."""
    module, op_name = LAYERS[name][1]
    op = getattr(importlib.import_module(MODULE + module), op_name)
    values = attributes(layer, op)
    known = [(images, *SHAPE[1:]), *(tuple(variable.shape) for variable in layer.variables)]
    known += [(0,)] * (len(op.inputs) - len(known))
    known += op.output_shapes(known, values)
    of = dict(zip([array.name for array in (*op.inputs, *op.outputs)], known, strict=True))
    for step in (op.forward_step, *op.backward_steps):
        made = {
            item.name: cuda_module.DevicePointer(
                1 << 20, of[item.name.removeprefix("grad_")], item.dtype, 0
            )
            for item in (*step.reads, *step.writes)
        }
        function = getattr(launch, step.function.__name__)
        wanted = {**values, **made}
        names = [n for n in (*values, *made) if n in step.function.py_func.__code__.co_varnames]
        function(**{n: wanted[n] for n in names}, stream=STREAM)


def attributes(layer, op):
    values = {item.name: item.default for item in op._definition.attributes}
    for key in values:
        if key == "same":
            values[key] = layer.padding == "same"
        elif key == "relu":
            values[key] = layer.activation is keras.activations.relu
        else:
            values[key] = getattr(layer, key)
    return values


@pytest.mark.skipif(SIMULATED, reason="the simulator executes the kernels")
def test_a_recipe_is_made_once(device, monkeypatch):
    recorded = []

    def noted(op, step, *arguments):
        recorded.append((step.function.__name__, arguments[2:]))
        return cuda_module.record(op, step, *arguments)

    monkeypatch.setattr(cuda_registration, "record", noted)
    layer = make("average_pooling2d", (None, 7, 6, 4))
    inputs, step = tf.constant(random(2, 7, 6, 4)), tf.function(layer)
    for _ in range(3):
        layer(inputs)
        step(inputs)
    assert recorded == [("average_pool2d_forward", (0, True))]
    first = device.launches[0]
    assert [plain(array) for array in device.launches] == [plain(first)] * 6
    layer(tf.constant(random(5, 7, 6, 4)))
    assert len(recorded) == 2


@pytest.mark.skipif(SIMULATED, reason="needs no simulator")
def test_tensors_that_are_not_aligned(device):
    """They get kernels of their own. TensorFlow has none to offer on demand."""
    op = _twins["average_pool2d"]
    values = {"pool_size": (2, 2), "strides": (2, 2), "same": False}
    shapes = [(1, 4, 4, 4), (1, 2, 2, 4)]
    named = {}
    for aligned in (True, False):
        made = cuda_module.record(op, op.forward_step, shapes, values, 0, aligned)
        (launched,) = made.launches
        named[aligned] = device.functions[launched.function - simulated_driver.FUNCTIONS].name
        assert all((address % 16 == 0) == aligned for address, _ in made.tensors)
    assert "vector 4" in named[True]
    assert "vector 4" not in named[False]
    state = cpu_compute.make_state(op.laid_out(op.forward_step), 0, [], 0, 0)
    offsets = op.laid_out(op.forward_step).offsets
    for inputs, outputs, expected in [(64, 32, True), (68, 32, False), (64, 8, False)]:
        block = np.zeros(20, np.int64)
        block[offsets["inputs"]], block[offsets["outputs"]] = inputs, outputs
        assert cuda_compute.all_aligned(state, block) == expected


@pytest.mark.skipif(not SIMULATED, reason="the simulator is off")
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", LAYERS)
def test_values(name, graph, request):
    layer = make(name)
    arrays = arrays_of(name, layer)
    expected = compute(layer, *arrays)
    device = request.getfixturevalue("device")
    step = tf.function(lambda *them: compute(layer, *them)) if graph else None
    found = step(*arrays) if step else compute(layer, *arrays)
    assert device.launches
    for got, wanted in zip(found, expected, strict=True):
        assert_close(got.numpy(), wanted.numpy(), 4 * 3 * 3 * 40)


@pytest.mark.slow
@pytest.mark.skipif(SIMULATED, reason="this is what starts the simulator")
def test_values_in_the_simulator():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-2000:]
    assert f"{2 * len(LAYERS)} passed" in done.stdout


def on_a_card(monkeypatch, way):
    """The layers on the first CUDA device, which is reached that way; skips without one."""
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees no CUDA device")
    monkeypatch.setattr(cuda_route, "_choice", cuda_route._decide(way))
    launched = []
    plain_launch, plain_function = runtime.Driver.launch, runtime.Driver.function

    def launch_noted(self, launches, *others):
        launched.extend(kernel.name.split()[0] for kernel, _, _ in launches)
        plain_launch(self, launches, *others)

    def function_noted(self, kernel, device):
        launched.append(kernel.name.split()[0])
        return plain_function(self, kernel, device)

    monkeypatch.setattr(runtime.Driver, "launch", launch_noted)
    monkeypatch.setattr(runtime.Driver, "function", function_noted)
    return launched


@pytest.mark.gpu
@pytest.mark.skipif(SIMULATED, reason="needs no simulator")
@pytest.mark.parametrize("way", ["stream", "dlpack"])
@pytest.mark.parametrize("name", LAYERS)
def test_on_a_device(name, way, monkeypatch):
    launched = on_a_card(monkeypatch, way)
    layer = make(name)
    arrays = arrays_of(name, layer, images=7 if way == "stream" else 11)
    with tf.device("CPU:0"):
        expected = compute(layer, *arrays)
    step = tf.function(lambda *them: compute(layer, *them))
    with tf.device("GPU:0"):
        found = [compute(layer, *arrays), step(*arrays), step(*arrays)]
    for results in found:
        assert results[0].device.endswith("GPU:0")
        for got, wanted in zip(results, expected, strict=True):
            assert_close(got.numpy(), wanted.numpy(), 4 * 3 * 3 * 40 * 11)
    *_, forward, backward = LAYERS[name]
    assert set(launched) == set(forward + backward)


@pytest.mark.gpu
@pytest.mark.skipif(SIMULATED, reason="needs no simulator")
def test_kernels_take_their_turn_between_tensorflow_s_own(monkeypatch):
    """On another stream the results of TensorFlow's kernels would not be there yet."""
    on_a_card(monkeypatch, "stream")
    layer = AveragePooling2D(2)
    with tf.device("GPU:0"):
        images = tf.random.stateless_uniform((64, 128, 128, 16), (1, 2))

        @tf.function
        def chain(start):
            def step(number, seen):
                grown = tf.cast(number + 1, tf.float32) * images
                return number + 1, seen + tf.reduce_mean(layer(grown))

            return tf.while_loop(lambda number, _: number < 200, step, (0, start))[1]

        expected = 200 * 201 / 2 * tf.reduce_mean(images)
        np.testing.assert_allclose(chain(0.0).numpy(), expected.numpy(), rtol=1e-4)
