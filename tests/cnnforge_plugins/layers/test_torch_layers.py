"""The layers under the torch backend: against the oracle and against torch's own functions."""

from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest

from cnnforge.conversion import PREVIOUS, decide, forge, implementations, lower
from cnnforge.conversion.certificate import certify
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import assert_close
from cnnforge_kernels import reference
from cnnforge_plugins.layers import _fallback
from cnnforge_plugins.layers._fallback import KernelUnavailableWarning
from cnnforge_plugins.layers.batch_normalization import BatchNormalization
from cnnforge_plugins.layers.conv2d import Conv2D
from cnnforge_plugins.layers.conv_block2d import ConvBlock2D
from cnnforge_plugins.layers.dense import Dense
from cnnforge_plugins.layers.depthwise_conv2d import DepthwiseConv2D
from cnnforge_plugins.layers.dropout import Dropout
from cnnforge_plugins.layers.global_average_pooling2d import GlobalAveragePooling2D
from cnnforge_plugins.layers.pooling import AveragePooling2D, MaxPooling2D
from cnnforge_plugins.models.lenet import build

torch = pytest.importorskip("torch", reason="torch is not installed: make test-torch")
if keras.backend.backend() != "torch":
    pytest.skip("the Keras backend is another one: make test-torch", allow_module_level=True)

functional = torch.nn.functional
SHAPE = (2, 11, 9, 4)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(layer, inputs, factors_seed=1, of=None):
    """The outputs, the factors, and the gradients of sum(factors * outputs), inputs first."""
    inputs = torch.from_numpy(inputs).requires_grad_()
    outputs = layer(inputs)
    factors = random(*outputs.shape, seed=factors_seed)
    sources = [inputs, *(variable.value for variable in (of or layer).trainable_variables)]
    gradients = torch.autograd.grad(outputs, sources, torch.from_numpy(factors))
    return outputs.detach().numpy(), factors, [gradient.numpy() for gradient in gradients]


def randomize(layer):
    for seed, variable in enumerate(layer.variables):
        variable.assign(random(*variable.shape, seed=10 + seed))
    return [keras.ops.convert_to_numpy(variable) for variable in layer.variables]


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("shape", [(9, 70), (2, 3, 5)], ids=str)
def test_dense(shape, relu):
    layer = Dense(20, activation="relu" if relu else None)
    layer.build(shape)
    weights, bias = randomize(layer)
    inputs = random(*shape)
    outputs, factors, gradients = run(layer, inputs)
    flat = inputs.reshape(-1, shape[-1]).astype(np.float64)
    expected = flat @ weights + bias
    assert_close(outputs.reshape(-1, 20), np.maximum(expected, 0) if relu else expected, shape[-1])
    passed = np.where(outputs > 0, factors, 0) if relu else factors
    passed = passed.reshape(-1, 20).astype(np.float64)
    assert_close(gradients[0].reshape(flat.shape), passed @ weights.T, 20)
    assert_close(gradients[1], flat.T @ passed, len(flat))
    assert_close(gradients[2], passed.sum(0), len(flat))


CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": "same", "activation": "relu"},
    {"kernel_size": (3, 2), "strides": 2},
    {"kernel_size": (2, 3), "dilation_rate": (2, 1), "groups": 2},
    {"kernel_size": 1, "padding": "same", "groups": 4, "activation": "relu"},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_conv2d(options):
    layer = Conv2D(8, **options)
    layer.build(SHAPE)
    weights, bias = randomize(layer)
    inputs = random(*SHAPE)
    outputs, factors, gradients = run(layer, inputs)
    geometry = {
        "strides": layer.strides,
        "same": layer.padding == "same",
        "dilation_rate": layer.dilation_rate,
        "groups": layer.groups,
    }
    relu = layer.activation is keras.activations.relu
    expected = reference.conv2d(inputs, weights, bias, relu=relu, **geometry)
    terms = weights[..., 0].size + 1
    assert_close(outputs, expected, terms)
    exact = reference.conv2d_gradients(
        inputs, weights, factors, outputs=outputs if relu else None, **geometry
    )
    positions = outputs[..., 0].size
    counts = (weights.size // layer.groups, positions, positions)
    for got, wanted, count in zip(gradients, exact, counts, strict=True):
        assert_close(got, wanted, count)
    if layer.padding == "valid":
        theirs = functional.conv2d(
            torch.from_numpy(inputs).double().permute(0, 3, 1, 2),
            torch.from_numpy(weights).double().permute(3, 2, 0, 1),
            torch.from_numpy(bias).double(),
            stride=layer.strides,
            dilation=layer.dilation_rate,
            groups=layer.groups,
        )
        theirs = theirs.permute(0, 2, 3, 1).numpy()
        assert_close(outputs, np.maximum(theirs, 0) if relu else theirs, terms)


@pytest.mark.parametrize(("pool_size", "strides"), [(2, 2), (3, 2), ((2, 3), 1)])
def test_max_pooling2d(pool_size, strides):
    layer = MaxPooling2D(pool_size, strides=strides)
    # Small integers: there are ties, and they go to the first.
    inputs = np.random.default_rng(0).integers(-2, 3, SHAPE).astype(np.float32)
    outputs, factors, (gradient,) = run(layer, inputs)
    geometry = {"pool_size": layer.pool_size, "strides": layer.strides}
    np.testing.assert_array_equal(outputs, reference.max_pool2d(inputs, **geometry)[0])
    expected = reference.max_pool2d_grad(inputs, factors, **geometry)
    assert_close(gradient, expected, layer.pool_size[0] * layer.pool_size[1])
    theirs = torch.from_numpy(inputs).permute(0, 3, 1, 2).requires_grad_()
    pooled = functional.max_pool2d(theirs, layer.pool_size, layer.strides)
    np.testing.assert_array_equal(outputs, pooled.detach().permute(0, 2, 3, 1))
    (wanted,) = torch.autograd.grad(pooled, theirs, torch.from_numpy(factors).permute(0, 3, 1, 2))
    np.testing.assert_allclose(gradient, wanted.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("pool_size", "strides"), [(2, 2), (3, 2), ((2, 3), 1)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_average_pooling2d(pool_size, strides, padding):
    layer = AveragePooling2D(pool_size, strides=strides, padding=padding)
    inputs = random(*SHAPE)
    outputs, factors, (gradient,) = run(layer, inputs)
    same = padding == "same"
    geometry = {"pool_size": layer.pool_size, "strides": layer.strides, "same": same}
    terms = layer.pool_size[0] * layer.pool_size[1] + 1
    assert_close(outputs, reference.average_pool2d(inputs, **geometry), terms)
    assert_close(gradient, reference.average_pool2d_grad(inputs, factors, **geometry), terms)
    if not same:
        theirs = torch.from_numpy(inputs).double().permute(0, 3, 1, 2)
        theirs = functional.avg_pool2d(theirs, layer.pool_size, layer.strides)
        assert_close(outputs, theirs.permute(0, 2, 3, 1), terms)


def test_depthwise_conv2d():
    layer = DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2, activation="relu")
    layer.build(SHAPE)
    weights, bias = randomize(layer)
    inputs = random(*SHAPE)
    outputs, factors, gradients = run(layer, inputs)
    geometry = {"strides": layer.strides, "same": True}
    expected = reference.depthwise_conv2d(inputs, weights, bias, relu=True, **geometry)
    assert_close(outputs, expected, 10)
    exact = reference.depthwise_conv2d_gradients(
        inputs, weights, factors, outputs=outputs, **geometry
    )
    positions = outputs[..., 0].size
    for got, wanted, count in zip(gradients, exact, (18, positions, positions), strict=True):
        assert_close(got, wanted, count)


def test_global_average_pooling2d():
    inputs = random(*SHAPE)
    outputs, factors, (gradient,) = run(GlobalAveragePooling2D(), inputs)
    assert_close(outputs, reference.global_average_pool2d(inputs), 11 * 9)
    assert_close(gradient, reference.global_average_pool2d_grad(inputs, factors), 1 + 1)
    theirs = functional.adaptive_avg_pool2d(torch.from_numpy(inputs).permute(0, 3, 1, 2), 1)
    np.testing.assert_allclose(outputs, theirs[:, :, 0, 0], rtol=1e-5, atol=1e-6)


def test_torch_computes_no_pair_as_one():
    """Decisions of an older run may ask for a pair; then each layer computes its own outputs."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE[1:]),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.MaxPooling2D(name="pool"),
        ]
    )
    decided = decide(model, "numba")
    assert [it.provider for it in decided] == ["builtin/conv2d", "builtin/max_pooling2d"]
    providers = ("builtin/conv_block2d", PREVIOUS)
    asked = [replace(it, provider=to) for it, to in zip(decided, providers, strict=True)]
    inputs = random(*SHAPE)
    for forged in (forge(model, decided), forge(model, asked)):
        both = keras.Model(forged.inputs[0], [forged.layers[0].output, forged.outputs[0]])
        maps, outputs = both(inputs)
        assert_close(outputs.detach(), model(inputs).detach(), 4 * 9 * 4)
        (gradient,) = torch.autograd.grad(outputs.sum(), [maps])
        assert gradient.sum() == outputs.numel()
        assert [type(it) for it in lower(forged).layers] == [type(it) for it in model.layers]


def test_conv_block2d():
    layer = ConvBlock2D(8, 3, padding="same", pool_size=2)
    layer.build(SHAPE)
    weights, bias = randomize(layer)
    inputs = random(*SHAPE)
    outputs, factors, gradients = run(layer, inputs)
    theirs = [
        torch.from_numpy(array).double().requires_grad_() for array in (inputs, weights, bias)
    ]
    maps = functional.conv2d(
        theirs[0].permute(0, 3, 1, 2), theirs[1].permute(3, 2, 0, 1), theirs[2], padding=1
    )
    pooled = functional.max_pool2d(maps.relu(), 2).permute(0, 2, 3, 1)
    assert_close(outputs, pooled.detach(), 3 * 3 * 4 + 1)
    exact = torch.autograd.grad(pooled, theirs, torch.from_numpy(factors).double())
    positions = outputs[..., 0].size
    counts = (3 * 3 * 8, positions, positions)
    for got, wanted, count in zip(gradients, exact, counts, strict=True):
        assert_close(got, wanted, count)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}], ids=str)
@pytest.mark.parametrize("shape", [SHAPE, (40, 5), (2, 3, 4, 5, 6)], ids=str)
def test_batch_normalization(shape, options):
    layer = BatchNormalization(momentum=0.75, epsilon=1e-2, **options)
    layer.build(shape)
    *trained, old_mean, old_variance = randomize(layer)
    channels, rows = shape[-1], int(np.prod(shape[:-1]))
    gamma = trained[0] if layer.scale else np.ones(channels)
    beta = trained[-1] if layer.center else np.zeros(channels)
    inputs = random(*shape) + np.float32(2)
    outputs, factors, gradients = run(partial(layer, training=True), inputs, of=layer)
    expected, mean, variance = reference.batch_norm(inputs, gamma, beta, epsilon=1e-2)
    assert_close(outputs, expected, rows)
    exact = list(reference.batch_norm_gradients(inputs, gamma, factors, epsilon=1e-2))
    wanted = [exact[0], *exact[1:2][: layer.scale], *exact[2:][: layer.center]]
    for got, value in zip(gradients, wanted, strict=True):
        assert_close(got, value, rows)
    for average, old, now in (
        (layer.moving_mean, old_mean, mean),
        (layer.moving_variance, old_variance, variance),
    ):
        assert_close(average.value.detach().numpy(), 0.75 * old + 0.25 * now, rows)
    # PyTorch's own, which keeps its channels first.
    theirs = functional.batch_norm(
        torch.from_numpy(inputs).double().movedim(-1, 1),
        *(None, None, torch.from_numpy(gamma).double(), torch.from_numpy(beta).double()),
        training=True,
        eps=1e-2,
    )
    assert_close(outputs, theirs.movedim(1, -1).numpy(), rows)


def test_batch_normalization_does_not_keep_the_graphs_of_steps_before():
    """The averages hold no history, or memory would grow with every step."""
    layer = BatchNormalization()
    for _ in range(2):
        inputs = torch.from_numpy(random(*SHAPE)).requires_grad_()
        layer(inputs, training=True).sum().backward()
        assert layer.moving_mean.value.grad_fn is None
        assert layer.moving_variance.value.grad_fn is None
        assert layer.moving_mean.value.grad is None


class Elsewhere:
    """A tensor that says that it lies on a graphics card."""

    def __init__(self, tensor):
        self.tensor, self.shape, self.dtype = tensor, tensor.shape, tensor.dtype
        self.device = torch.device("cuda")


def test_batch_normalization_on_a_device_is_torchs_own(monkeypatch):
    monkeypatch.setattr(_fallback, "_said", set())
    monkeypatch.setattr(
        keras.layers.BatchNormalization,
        "call",
        lambda self, inputs, training=None, mask=None: inputs.tensor,
    )
    layer = BatchNormalization()
    layer.build(SHAPE)
    inputs = Elsewhere(torch.zeros(SHAPE))
    text = "BatchNormalization: no kernel for the device cuda .*: the framework's own is used"
    with pytest.warns(KernelUnavailableWarning, match=text) as said:
        results = [layer.call(inputs, training=True) for _ in range(3)]
    assert all(array is inputs.tensor for array in results)
    assert len(said) == 1


def test_every_layer_of_a_model_is_certified():
    layers = discover().layers
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.DepthwiseConv2D(3, padding="same"),
            keras.layers.Conv2D(4, 3, strides=2),
            keras.layers.BatchNormalization(),
            keras.layers.AveragePooling2D(2, padding="same", strides=1),
            keras.layers.MaxPooling2D(2, padding="same", strides=1),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    checks = certify(forge(model, "numba", layers=layers), layers=layers)
    assert len(checks) >= 7
    assert [check for check in checks if not check.passed] == []


def test_forge_and_lower():
    model = build((28, 28, 1), 10)
    forged = forge(model, "numba")
    assert {row.implementation for row in implementations(forged)} == {"numba"}
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)).astype(np.float32)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(forged.predict(images, verbose=0), expected, rtol=1e-4, atol=1e-6)
    again = lower(forged)
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    np.testing.assert_array_equal(again.predict(images, verbose=0), expected)


# Torch computes its dropout.
@pytest.mark.filterwarnings("ignore::cnnforge_plugins.layers._fallback.KernelUnavailableWarning")
def test_keras_own_fit_trains_a_forged_model():
    model = forge(build((12, 12, 1), 3), "numba")
    model.compile("adam", "sparse_categorical_crossentropy")
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 96)
    images = generator.integers(0, 60, (96, 12, 12, 1)) + 60.0 * labels[:, None, None, None]
    losses = model.fit(images, labels, batch_size=32, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore::cnnforge_plugins.layers._fallback.KernelUnavailableWarning")
@pytest.mark.parametrize("options", [{"data_format": "channels_first"}, {"dtype": "float64"}])
def test_other_inputs_are_computed_by_torch(options):
    layer = Conv2D(2, 3, **options)
    shape = (2, 4, 8, 8)
    layer.build(shape)
    inputs = random(*shape).astype(options.get("dtype", "float32"))
    stock = keras.layers.Conv2D.from_config(layer.get_config())
    stock.build(shape)
    stock.set_weights(layer.get_weights())
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layer(inputs)), keras.ops.convert_to_numpy(stock(inputs))
    )
    assert issubclass(KernelUnavailableWarning, UserWarning)


def test_dropout_is_torchs_own(monkeypatch):
    monkeypatch.setattr(_fallback, "_said", set())
    inputs = random(*SHAPE)
    ours, stock = (kind(0.5, seed=1) for kind in (Dropout, keras.layers.Dropout))
    assert ours(inputs).detach().numpy().tobytes() == inputs.tobytes()
    with pytest.warns(KernelUnavailableWarning, match="Dropout: no kernel for the backend torch"):
        outputs = [ours(inputs, training=True) for _ in range(2)]
    for result in outputs:
        expected = stock(inputs, training=True).detach().numpy()
        np.testing.assert_array_equal(result.detach().numpy(), expected)


@pytest.mark.filterwarnings("ignore::cnnforge_plugins.layers._fallback.KernelUnavailableWarning")
@pytest.mark.parametrize("seed", [None, 1])
def test_the_certificate_of_dropout_leaves_torchs_generator_alone(seed):
    model = keras.Sequential([keras.Input(SHAPE[1:]), Dropout(0.5, seed=seed)])
    state = torch.get_rng_state()
    (check,) = certify(model, layers=discover().layers)
    assert check.passed, check
    assert torch.equal(torch.get_rng_state(), state)
