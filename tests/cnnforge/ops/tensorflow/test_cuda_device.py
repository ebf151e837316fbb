"""Tests of ops on a stand-in for a TensorFlow device.

`stub_device.cc` is a pluggable device whose memory is the host's. TensorFlow places ops on it,
allocates there and copies to it and back, as it does with a CUDA device.
"""

import shutil
import subprocess
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from cnnforge.ops.tensorflow.cuda import stream
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE

if keras.backend.backend() != "tensorflow":
    pytest.skip("the Keras backend is another one", allow_module_level=True)
COMPILER = next(filter(None, map(shutil.which, stream._COMPILERS)), None)
if COMPILER is None:
    pytest.skip(
        "NO C++ COMPILER: no test runs on TensorFlow's devices; apt install g++",
        allow_module_level=True,
    )

HEAD = """
import ctypes, sys
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import load_library

load_library.load_pluggable_device_library(sys.argv[1])
from cnnforge.ops.tensorflow import cuda
from cnnforge.ops.tensorflow.cuda import probe
from cnnforge.ops.tensorflow.cuda import self_test
from cnnforge.ops.tensorflow import registration
from cnnforge.ops.tensorflow.cuda.registration import CudaKernels

word, number = ctypes.c_void_p, ctypes.c_uint
Stream = ctypes.CFUNCTYPE(ctypes.c_int32, word, ctypes.POINTER(ctypes.c_int64))

def address(function):
    return ctypes.cast(function, word).value
"""

# The self-test, with a stand-in for `cuLaunchKernel`.
STREAMS = """
Launch = ctypes.CFUNCTYPE(ctypes.c_int, word, *[number] * 7, word, ctypes.POINTER(word), word)
shipped, unrefusing = (Stream(("cnnforge_stream", ctypes.CDLL(path))) for path in sys.argv[2:])
answers, streams = [], []

@Stream
def stream(context, found):
    if refused:
        return shipped(context, found)
    answers.append((shipped(context, found), found[0], found[1]))
    answers.append((unrefusing(context, found), found[0], found[1]))
    found[0] = 77
    return 0

@Launch
def launch(function, x, y, z, threads, ty, tz, shared, stream, places, extra):
    streams.append(stream)
    kinds = [ctypes.c_uint64] * 4 + [ctypes.c_uint32, ctypes.c_float]
    source, factor, target, scratch, count, offset = (
        kind.from_address(places[i]).value for i, kind in enumerate(kinds)
    )
    floats = lambda at, size: np.ctypeslib.as_array((ctypes.c_float * size).from_address(at))
    floats(scratch, count)[:] = floats(source, count) * floats(factor, 1)
    floats(target, count)[:] = floats(scratch, count) + np.float32(offset)
    return 0

kernels = CudaKernels("STUB", address(stream), address(launch))
probe._function = lambda: 1
op = self_test.make_op()

def call(op, tensors, values):
    registration.register_steps(op, kernels)
    return registration.call(op, tensors, values)

refused = True
try:
    self_test.run(call, "STUB")
except tf.errors.InvalidArgumentError as error:
    print("refused:", "TensorFlow computes on a device that has no CUDA stream" in str(error))
refused = False
self_test.run(call, "STUB")
with tf.device("STUB:1"):
    (result,) = call(op, [tf.ones([2]), tf.ones([1])], {"offset": 1.0})
print("second:", result.device.split('device:')[-1], result.numpy().tolist())
print("streams:", set(streams))
print("shipped:", set(answers[::2]))
print("unrefusing:", set(answers[1::2]))
"""

# The layers; Numba's CUDA simulator executes their kernels in the device's memory.
LAYERS = """
from cnnforge_kernels.cuda import launch as module
from cnnforge_kernels.cuda.runtime import driver as driver_module
from cnnforge_kernels.cuda.runtime import simulated_driver
from cnnforge_plugins.layers.conv2d import Conv2D
from cnnforge_plugins.layers.conv_block2d import ConvBlock2D
from cnnforge_plugins.layers.pooling import MaxPooling2D
import keras

@Stream
def stream(context, found):
    found[0], found[1] = 77, 0
    return 0

simulated = simulated_driver.Driver()
launch = simulated.launch_kernel()
driver_module._driver = simulated
module.missing = lambda: None
cuda._choice = cuda.Choice(
    "stream", "", CudaKernels("STUB", address(stream), address(launch))
)
keras.utils.set_random_seed(1)
layers = [ConvBlock2D(4, 3, padding="same", pool_size=2), Conv2D(8, 2, activation="relu"),
          MaxPooling2D(2)]
inputs = tf.constant(np.random.default_rng(0).standard_normal((2, 7, 6, 1), np.float32))
variables = []

def compute(inputs):
    with tf.GradientTape() as tape:
        outputs = inputs
        for layer in layers:
            outputs = layer(outputs)
    return outputs, *tape.gradient(outputs, [v.value for l in layers for v in l.variables])

def run(device, function):
    simulated.launches.clear()
    with tf.device(device):
        found = function(inputs)
    print(device, found[0].device.split('device:')[-1], len(simulated.launches))
    return found

layers_built = compute(inputs)
for function in (compute, tf.function(compute)):
    expected = run("CPU:0", function)
    found = run("STUB:0", function)
    assert len(found) == 5
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)
print(*simulated.kernels)
"""


def compiled(folder, source, name):
    path = folder / f"{name}.so"
    flags = [*stream._FLAGS, *tf.sysconfig.get_compile_flags()]
    links = tf.sysconfig.get_link_flags()
    subprocess.run([COMPILER, str(source), *flags, "-o", str(path), *links], check=True)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("device")


@pytest.fixture(scope="module")
def device(folder):
    return compiled(folder, Path(__file__).with_name("stub_device.cc"), "stub_device")


@pytest.mark.slow
def test_the_self_test_and_the_stream_function(folder, device, run_python):
    # The function as it is shipped, and without the refusal of pluggable devices: the second one
    # then reads the values that TensorFlow has put into its objects.
    text = stream._SOURCE.read_text()
    refusal = "device->IsPluggableDevice() || "
    assert text.count(refusal) == 1
    source = folder / "unrefusing.cc"
    source.write_text(text.replace(refusal, ""))
    libraries = stream.build(folder), compiled(folder, source, "unrefusing")
    lines = run_python(HEAD + STREAMS, device, *libraries).splitlines()
    assert lines == [
        "refused: True",
        "second: STUB:1 [2.0, 2.0]",
        "streams: {77}",
        "shipped: {(1, 0, 0)}",
        # The stream of a pluggable device has no handle, and its number is -1 (0 was there before).
        "unrefusing: {(1, 0, -1)}",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not AVAILABLE, reason="needs numba-cuda: pip install 'cnnforge[test]'")
def test_layers_where_tensorflow_places_them(device, run_python):
    lines = run_python(HEAD + LAYERS, device, NUMBA_ENABLE_CUDASIM="1").splitlines()
    on_cpu, on_device = "CPU:0 CPU:0 0", "STUB:0 STUB:0 9"
    assert lines[:4] == [on_cpu, on_device] * 2
    forward = ["conv_block", "conv2d_direct", "max_pool2d"]
    gradients = ["max_pool2d_grad", "conv2d_grad_inputs", "conv2d_grad_weights", "reduce_slices"]
    assert sorted(lines[4].split()) == sorted(
        [*forward, *gradients, "conv_block_grad_weights", "reduce_slices"]
    )
