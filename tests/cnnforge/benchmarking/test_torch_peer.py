"""PyTorch as a peer computes what the stock layer computes."""

import sys

import keras
import numpy as np
import pytest

from cnnforge import benchmarking
from cnnforge.benchmarking import torch_peer
from cnnforge.conversion.matching import preferred
from cnnforge.conversion.workloads import Workload
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import assert_close
from cnnforge_plugins.layers.conv_block2d import StockBlock2D

layers = keras.layers
needs_torch = pytest.mark.skipif(
    bool(benchmarking.torch_missing()), reason="PyTorch is not installed together with TensorFlow"
)
LAYERS = {
    "convolution": layers.Conv2D(4, 3, padding="same", use_bias=False),
    "strided": layers.Conv2D(4, (3, 2), strides=2, padding="same", activation="relu"),
    "dilated": layers.Conv2D(4, 3, dilation_rate=2, groups=2),
    "depthwise": layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
    "block": StockBlock2D(4, 5, padding="same", pool_size=2),
    "max": layers.MaxPooling2D(2),
    "average": layers.AveragePooling2D((3, 2), strides=2),
    "normalization": layers.BatchNormalization(epsilon=0.1),
    "normalization, shifted": layers.BatchNormalization(scale=False),
    "normalization, scaled": layers.BatchNormalization(center=False),
}


def workload(layer, shape=(2, 9, 8, 4), grad_inputs=True):
    kind = type(layer)
    spec = preferred(discover().layers)[kind]
    return Workload(spec, kind, kind, layer.get_config(), shape, grad_inputs)


@needs_torch
@pytest.mark.parametrize("name", LAYERS)
def test_outputs(name):
    torch = pytest.importorskip("torch")
    layer = LAYERS[name]
    it = workload(layer)
    stock = it.build(it.reference)
    for variable in stock.variables:
        # A variance is positive.
        variable.assign(np.random.default_rng(1).uniform(0.5, 2, variable.shape))
    inputs = np.random.default_rng(0).standard_normal(it.shape).astype(np.float32)
    peer = torch_peer._peer(it, stock)
    assert peer is not None
    compute, weights = peer
    arrays = (torch_peer._channels_first(inputs), *weights)
    with torch.inference_mode():
        outputs = compute(*(torch.from_numpy(np.array(array)) for array in arrays)).numpy()
    assert_close(np.moveaxis(outputs, 1, -1), stock(inputs), 4 * 25)


@needs_torch
@pytest.mark.parametrize("grad_inputs", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_both_layouts_can_be_timed(name, grad_inputs):
    found = torch_peer.torch_functions(workload(LAYERS[name], grad_inputs=grad_inputs))
    assert set(found) == set(torch_peer.LAYOUTS)
    for functions in found.values():
        functions["forward"].repeat(2)
        functions["full"].repeat(2)
        # A pool that is the first layer has no gradients.
        assert ("backward" in functions) == (grad_inputs or name not in ("max", "average"))
        if "backward" in functions:
            functions["backward"].repeat(2)


@needs_torch
def test_a_normalization_trains_in_the_full_pass():
    """By the moments of the batch, which move the averages; a prediction moves nothing."""
    torch = pytest.importorskip("torch")
    layer = layers.BatchNormalization(momentum=0.5)
    layer.build((None, 9, 8, 4))
    peer = torch_peer._peer(workload(layer), layer)
    assert peer is not None
    compute, weights = peer[0], [torch.from_numpy(array).requires_grad_() for array in peer[1]]
    inputs = 7 + 3 * torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = compute(inputs, *weights)
        assert torch.equal(compute(inputs, *weights), before)
        assert abs(before.mean() - 7) < 1
    trained = compute(inputs, *weights)
    assert abs(trained.detach().mean()) < 1e-5
    with torch.inference_mode():
        assert abs(compute(inputs, *weights).mean()) < abs(before.mean()) - 1


@needs_torch
@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, activation="tanh"),
        layers.Conv2D(4, 3, data_format="channels_first"),
        layers.MaxPooling2D(2, padding="same"),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.5),
        layers.Conv2D(4, 3, dtype="float16"),
    ],
    ids=["activation", "layout", "padding", "global", "dropout", "precision"],
)
def test_what_has_no_counterpart_is_left_out(layer):
    shape = (2, 4, 9, 8) if getattr(layer, "data_format", "") == "channels_first" else (2, 9, 8, 4)
    assert torch_peer.torch_functions(workload(layer, shape)) == {}


@needs_torch
def test_a_measurement_with_torch():
    (case,) = benchmarking.layer_cases(discover().layers["average_pooling2d"], (2, 8, 8, 4))
    measured = benchmarking.measure(case, rounds=3, torch=True)
    peaks = benchmarking.Peaks(1e9, 1e9, 2)
    passes = benchmarking.to_json(measured, peaks)["passes"]
    assert passes["forward"]["torch"]["layout"] in torch_peer.LAYOUTS
    assert passes["forward"]["torch"]["median"] > 0
    for name in ("full", "backward"):
        assert passes[name]["torch"]["ratio"]["median"] > 0


def test_why_it_is_not_measured(monkeypatch):
    monkeypatch.setattr(torch_peer, "find_spec", lambda name: None)
    if keras.backend.backend() == "torch":
        assert benchmarking.torch_missing() == "Keras itself runs on it"
    else:
        assert "pip install torch" in benchmarking.torch_missing()


def test_without_torch_the_cells_are_empty(monkeypatch):
    # The package has a function of the module's name.
    module = sys.modules["cnnforge.benchmarking.measure"]
    monkeypatch.setattr(module, "torch_missing", lambda: "not installed")
    (case,) = benchmarking.layer_cases(discover().layers["average_pooling2d"], (2, 8, 8, 4))
    measured = benchmarking.measure(case, rounds=3, torch=True)
    row = benchmarking.to_json(measured, benchmarking.Peaks(1e9, 1e9, 2))
    assert row["passes"]["full"]["torch"] is None
