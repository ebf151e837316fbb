"""The layers under the torch backend on a CUDA device, with no device: `make test-torch`.

Tensors of the CPU stand for those of a device, and a stand-in for the driver notes what would be
launched on which stream and with which pointers. The last test runs this file again in Numba's
CUDA simulator, which executes the kernels: there values and gradients are those of the CPU.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from cnnforge.testing import assert_close
from cnnforge_kernels.cuda import launch
from cnnforge_kernels.cuda.codegen.jit import AVAILABLE, SIMULATED
from cnnforge_kernels.cuda.runtime import arrays, availability, simulated_driver
from cnnforge_kernels.cuda.runtime import driver as runtime
from cnnforge_plugins.layers._fallback import KernelUnavailableWarning, kernel_fits
from cnnforge_plugins.layers.conv2d import Conv2D
from cnnforge_plugins.layers.conv_block2d import ConvBlock2D
from cnnforge_plugins.layers.depthwise_conv2d import DepthwiseConv2D
from cnnforge_plugins.layers.global_average_pooling2d import GlobalAveragePooling2D
from cnnforge_plugins.layers.pooling import AveragePooling2D, MaxPooling2D

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch")
if keras.backend.backend() != "torch":
    pytest.skip("the Keras backend is another one: make test-torch", allow_module_level=True)
if not AVAILABLE:
    pytest.skip("needs numba-cuda: pip install 'cnnforge[test]'", allow_module_level=True)

STREAM, DEVICE = 77, torch.device("cuda:0")
SHAPE = (1, 5, 6, 4)
# name -> (layer, kernels of the forward pass, kernels of the gradients)
LAYERS = {
    "conv2d": (
        lambda: Conv2D(8, 3, padding="same", activation="relu"),
        ["conv2d_direct"],
        ["conv2d_grad_inputs", "conv2d_grad_weights", "reduce_slices"],
    ),
    "conv2d without bias": (
        lambda: Conv2D(130, 2, strides=(2, 1), use_bias=False),
        ["conv2d_gemm"],
        ["conv2d_grad_inputs", "conv2d_grad_weights", "reduce_slices"],
    ),
    "conv_block2d": (
        lambda: ConvBlock2D(4, 3, padding="same", pool_size=2),
        ["conv_block"],
        ["conv_block_grad_inputs", "conv_block_grad_weights", "reduce_slices"],
    ),
    "depthwise_conv2d": (
        lambda: DepthwiseConv2D(3, activation="relu"),
        ["depthwise_conv2d"],
        ["depthwise_grad_inputs", "depthwise_grad_weights", "reduce_slices"],
    ),
    "max_pooling2d": (lambda: MaxPooling2D(2), ["max_pool2d"], ["max_pool2d_grad"]),
    "average_pooling2d": (
        lambda: AveragePooling2D(3, strides=2, padding="same"),
        ["average_pool2d"],
        ["average_pool2d_grad"],
    ),
    "global_average_pooling2d": (
        GlobalAveragePooling2D,
        ["global_average_pool2d"],
        ["global_average_pool2d_grad"],
    ),
}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Device:
    """``torch.cuda.device``."""

    def __init__(self, device):
        assert device == DEVICE

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


@pytest.fixture
def device(monkeypatch):
    """From here on tensors are on a device; returns the stand-in for its driver."""
    import importlib

    route = importlib.import_module("cnnforge.ops.torch")
    driver, empty = simulated_driver.Driver(), torch.empty

    def on_cpu(*shape, device=None, **options):
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", on_cpu)
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=STREAM))
    monkeypatch.setattr(route, "_device", lambda op, tensors: DEVICE)
    monkeypatch.setattr(arrays, "is_device_array", lambda value: isinstance(value, torch.Tensor))
    monkeypatch.setattr(runtime, "_driver", driver)
    return driver


def make(name):
    layer = LAYERS[name][0]()
    layer.build(SHAPE)
    for seed, variable in enumerate(layer.variables):
        variable.assign(random(*variable.shape, seed=10 + seed))
    return layer


def run(layer, place="cpu"):
    """Inputs, outputs, and the gradients of the inputs and the variables, all of them tensors."""
    inputs = torch.from_numpy(random(*SHAPE)).to(place).requires_grad_()
    outputs = layer(inputs)
    grads = torch.from_numpy(random(*outputs.shape, seed=1)).to(place)
    sources = [inputs, *(variable.value for variable in layer.trainable_variables)]
    return inputs, outputs, grads, torch.autograd.grad(outputs, sources, grads)


@pytest.mark.skipif(SIMULATED, reason="the simulator executes the kernels: see the next test")
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_launched(name, device):
    layer = make(name)
    inputs, outputs, grads, gradients = run(layer)
    forward, backward = LAYERS[name][1:]
    assert device.kernels == forward + backward
    assert set(device.streams) == {STREAM}
    # The tensors' own memory, nothing copied; besides them only the scratch of the reduction.
    pointers = [
        {value for value, kind in zip(arguments, kernel.arguments, strict=True) if "*" in kind}
        for kernel, _, arguments in device.launches
    ]
    variables = {variable.value.data_ptr() for variable in layer.variables}
    winners = pointers[0] - {inputs.data_ptr(), outputs.data_ptr()} - variables
    assert pointers[0] >= {inputs.data_ptr(), outputs.data_ptr()} | variables
    assert len(winners) == (name in ("max_pooling2d", "conv_block2d"))
    own = {tensor.data_ptr() for tensor in (inputs, outputs, grads, *gradients)} | variables
    scratch = {memory.pointer for memory in device.memories}
    assert len(device.memories) == bool(variables) + (name == "conv2d without bias")
    assert set().union(*pointers) == own | scratch | winners
    assert all(memory.freed for memory in device.memories)


@pytest.mark.skipif(not SIMULATED, reason="the simulator is off")
@pytest.mark.parametrize("name", LAYERS)
def test_values(name, request):
    layer = make(name)
    _, expected, _, expected_gradients = run(layer)
    device = request.getfixturevalue("device")
    _, outputs, _, gradients = run(layer)
    assert device.launches
    compare(outputs, gradients, expected, expected_gradients)


def compare(outputs, gradients, expected, expected_gradients):
    terms = 4 * 3 * 3 * 40
    for got, wanted in zip((outputs, *gradients), (expected, *expected_gradients), strict=True):
        assert_close(got.detach().cpu().numpy(), wanted.detach().numpy(), terms)


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
    assert f"{len(LAYERS)} passed" in done.stdout


@pytest.mark.skipif(SIMULATED, reason="needs no simulator")
def test_functions_get_tensors_with_an_array_interface(device, monkeypatch):
    import doubled_cuda
    from doubled import make_op

    seen = []

    def forward(inputs, fault, outputs, stream):
        # A tensor that requires a gradient has no CUDA array interface.
        seen.append((inputs.requires_grad, outputs.requires_grad, stream))

    def backward(grad_outputs, fault, grad_inputs, stream):
        seen.append((grad_outputs.requires_grad, grad_inputs.requires_grad, stream))

    monkeypatch.setattr(doubled_cuda, "forward", forward)
    monkeypatch.setattr(doubled_cuda, "backward", backward)
    op = make_op("doubled_under_torch", "doubled_cuda")
    inputs = torch.ones((2, 3), requires_grad=True)
    torch.autograd.grad(op(inputs), inputs, torch.ones((2, 3)))
    assert seen == [(False, False, STREAM)] * 2


@pytest.mark.skipif(SIMULATED, reason="needs no simulator")
def test_every_op_has_its_functions(device):
    from cnnforge.ops.array_op import registered_ops
    from cnnforge.ops.torch.run import cuda_functions, runs_on

    ops = [op for op in registered_ops() if op.cuda == launch.__name__]
    assert len(ops) == 7
    for op in ops:
        assert runs_on(op, DEVICE)
        for step, function in cuda_functions(op).items():
            assert function is getattr(launch, step.function.__name__)


@pytest.mark.skipif(SIMULATED, reason="needs no simulator")
def test_where_no_device_can_be_used_the_framework_computes(monkeypatch):
    layer, inputs = make("max_pooling2d"), SimpleNamespace(dtype="float32", device=DEVICE)
    monkeypatch.setattr(availability, "missing", lambda: None)
    assert kernel_fits(layer, inputs)
    monkeypatch.setattr(availability, "missing", lambda: "The driver is too old.")
    with pytest.warns(KernelUnavailableWarning, match=r"device cuda \(The driver is too old"):
        assert not kernel_fits(layer, inputs)
    inputs.device = torch.device("mps:0")
    with pytest.warns(KernelUnavailableWarning, match="device mps"):
        assert not kernel_fits(layer, inputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("name", LAYERS)
def test_on_a_device(name, monkeypatch):
    with keras.device("cpu"):
        _, expected, _, expected_gradients = run(make(name))
    launched = []
    monkeypatch.setattr(runtime.Driver, "launch", _noting(runtime.Driver.launch, launched))
    with keras.device("cuda:0"):
        _, outputs, _, gradients = run(make(name), "cuda:0")
    _, forward, backward = LAYERS[name]
    assert [kernel.name.split()[0] for kernel in launched] == forward + backward
    compare(outputs, gradients, expected, expected_gradients)


def _noting(launch, launched):
    def noting(self, launches, device, stream):
        launched.extend(kernel for kernel, _, _ in launches)
        launch(self, launches, device, stream)

    return noting
