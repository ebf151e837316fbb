"""`forge` and `lower` keep objects of the user's own, and everything that a model is compiled with.

None of the functions and classes below is registered with Keras, and most are local.
"""

import functools
import warnings

import keras
import numpy as np
import pytest

from cnnforge.conversion import forge, lower
from cnnforge.conversion.certificate import certify
from cnnforge.errors import UsageError
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import assert_close
from cnnforge_plugins.layers.conv2d import Conv2D

layers, ops = keras.layers, keras.ops
SHAPE = (8, 8, 2)
LABELS = np.arange(4) % 3


def images(*shape):
    return np.random.default_rng(0).uniform(0, 1, shape or (4, *SHAPE)).astype(np.float32)


def stack(*parts, shape=SHAPE):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(shape), *parts])


def body():
    return [
        layers.Conv2D(4, 3, activation="relu", padding="same", name="convolution"),
        layers.MaxPooling2D(name="pool"),
    ]


def head(units=3):
    return [layers.Flatten(), layers.Dense(units, activation="softmax", name="dense")]


def both(model):
    """The forged model and the lowered one, once they compute the same as the model."""
    forged = forge(model, "numba")
    lowered = lower(forged)
    assert forged is not model
    inputs = images(4, *model.input_shape[1:])
    for other, terms in ((forged, 4000), (lowered, 1)):
        assert_close(other.predict(inputs, verbose=0), model.predict(inputs, verbose=0), terms)
        assert_close(other(inputs), model(inputs), terms)
    assert [type(it) for it in lowered.layers] == [type(it) for it in model.layers]
    return forged, lowered


def values(variables):
    return [keras.ops.convert_to_numpy(it) for it in variables]


def assert_same(first, second):
    for a, b in zip(values(first), values(second), strict=True):
        np.testing.assert_array_equal(a, b)


def factor_two(inputs):
    return inputs * 2.0


def own_activation(inputs):
    return ops.tanh(inputs) * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Lambda(factor_two),
        lambda: layers.Lambda(lambda x: x + 1, output_shape=lambda shape: shape),
        lambda: layers.Lambda(
            lambda x, by: x * by, arguments={"by": np.float32(3)}, mask=lambda *_: None
        ),
        lambda: layers.Activation(lambda x: x + 1),
        lambda: layers.Conv2D(2, 1, activation=own_activation),
        lambda: layers.Conv2D(2, 1, activation=functools.partial(ops.leaky_relu, negative_slope=1)),
        lambda: layers.Conv2D(2, 1, kernel_regularizer=lambda kernel: ops.sum(kernel**2)),
        lambda: layers.Conv2D(2, 1, kernel_initializer=lambda shape, dtype=None: ops.ones(shape)),
    ],
)
def test_layers_with_functions_of_the_users_own(make):
    model = stack(make(), *body(), *head())
    forged, lowered = both(model)
    for other in (forged, lowered):
        np.testing.assert_allclose(
            [float(it) for it in other.losses], [float(it) for it in model.losses], rtol=1e-6
        )
    assert all(check.passed for check in certify(forged, layers=discover().layers))


def test_functions_inside_of_a_layer():
    class Twice(layers.Layer):
        def call(self, inputs):
            return 2 * inputs

        def compute_output_shape(self, input_shape):
            return input_shape

    for inner in (
        layers.Lambda(lambda x: x + 1),
        stack(layers.Lambda(lambda x: x + 1), layers.Conv2D(2, 3, padding="same")),
        Twice(),
    ):
        both(
            stack(
                layers.TimeDistributed(inner),
                layers.Reshape((16, 8, 2)),
                layers.Conv2D(2, 3),
                shape=(2, *SHAPE),
            )
        )


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("nested", [False, True])
def test_quantized_layers(mode, nested):
    model = stack(*body(), *head())
    if nested:
        model = stack(model, layers.Dense(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of each layer that it cannot quantize.
        model.quantize(mode)
    forged, lowered = both(model)
    assert forged.layers[-1].quantization_mode == mode
    # The copies make the variables in another order.
    found = [
        sorted((it.name, keras.ops.convert_to_numpy(it).tobytes()) for it in each.variables)
        for each in (model, lowered)
    ]
    assert found[0] == found[1]


def test_lora_in_a_pair_and_in_a_dense_layer():
    model = stack(*body(), *head())
    for layer in (model.layers[0], model.layers[-1]):
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(ops.ones(layer.lora_kernel_b.shape))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(images(), LABELS, verbose=0)
    forged, lowered = both(model)
    for each in (model, forged, lowered):
        each.fit(images(), LABELS, verbose=0, shuffle=False)
    assert len(forged.trainable_variables) == len(model.trainable_variables) == 6
    for a, b in zip(values(forged.variables), values(model.variables), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_own_losses_and_metrics_of_several_outputs():
    class Largest(keras.metrics.Metric):
        def __init__(self, wrapped):
            super().__init__(name="largest")
            self.wrapped, self.value = wrapped, self.add_variable((), "zeros")

        def update_state(self, truth, guess, sample_weight=None):
            self.value.assign(self.wrapped(guess))

        def result(self):
            return self.value

    class Distance(keras.losses.Loss):
        def call(self, truth, guess):
            return ops.mean(ops.abs(truth - guess), -1)

    inputs = outputs = keras.Input(SHAPE, name="picture")
    for layer in (*body(), layers.Flatten()):
        outputs = layer(outputs)
    named = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(outputs),
        "size": layers.Dense(1, name="size")(outputs),
    }
    model = keras.Model({"picture": inputs}, named)
    model.compile(
        "adam",
        {"kind": "sparse_categorical_crossentropy", "size": Distance()},
        loss_weights={"kind": 1.0, "size": 0.25},
        metrics={"kind": ["accuracy"], "size": [Largest(ops.max), lambda t, g: ops.mean(g)]},
        weighted_metrics={"kind": ["accuracy"]},
    )
    data = {"picture": images()}, {"kind": LABELS, "size": np.ones((4, 1), np.float32)}
    model.fit(*data, verbose=0)
    expected = model.evaluate(*data, verbose=0, return_dict=True)
    assert len(expected) > 5
    forged = forge(model, "numba")
    for other in (forged, lower(forged)):
        found = other.evaluate(*data, verbose=0, return_dict=True)
        assert found == pytest.approx(expected, rel=1e-4)
        other.fit(*data, verbose=0)
    # Metrics of Keras have a state of their own in each model.
    assert not {id(it) for it in model.metrics_variables[:1]} & {
        id(it) for it in forged.metrics_variables
    }


@pytest.fixture
def not_deterministic():
    """Let Keras use XLA, also after a test that has made TensorFlow deterministic."""
    from tensorflow.python.framework import config

    enabled = config.is_op_determinism_enabled()
    config.disable_op_determinism()
    yield
    if enabled:
        config.enable_op_determinism()


def test_everything_that_compile_was_given(not_deterministic):
    model = stack(*body(), *head())
    asked = {
        "loss": lambda truth, guess: ops.mean(guess),
        "loss_weights": [0.5],
        "weighted_metrics": ["mae"],
        "steps_per_execution": 2,
        "jit_compile": True,
    }
    model.compile("sgd", **asked)
    forged, lowered = both(model)
    for other in (forged, lowered):
        assert other.loss is asked["loss"]
        assert other.steps_per_execution == 2
        other.fit(images(), np.ones((4, 3)), verbose=0) if other is forged else None
    # XLA cannot compile kernels, and can compile the lowered model again.
    assert [it.jit_compile for it in (model, forged, lowered)] == [True, False, True]
    model.run_eagerly = True
    assert both(model)[0].run_eagerly


@pytest.mark.filterwarnings("ignore:.*no kernel for the dtype")
def test_a_scaled_loss():
    policy = "mixed_float16"
    model = stack(layers.Conv2D(2, 3, dtype="float32"), *head())
    keras.config.set_dtype_policy(policy)
    try:
        for scaled in (True, False):
            mixed = keras.Sequential(
                [
                    keras.Input(SHAPE),
                    *(type(it).from_config(it.get_config()) for it in model.layers),
                ]
            )
            mixed.compile("sgd", "sparse_categorical_crossentropy", auto_scale_loss=scaled)
            mixed.fit(images(), LABELS, verbose=0)
            forged = forge(mixed, "numba")
            assert type(forged.optimizer) is type(mixed.optimizer)
            assert hasattr(forged.optimizer, "inner_optimizer") == scaled
            assert_same(forged.optimizer.variables, mixed.optimizer.variables)
            forged.fit(images(), LABELS, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")


def test_an_own_optimizer_with_an_own_schedule():
    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        """Has no get_config."""

        def __call__(self, step):
            return 0.1 / (1 + ops.cast(step, "float32"))

    class Own(keras.optimizers.AdamW):
        pass

    model = stack(*body(), *head())
    optimizer = Own(Falling(), weight_decay=0.5)
    optimizer.exclude_from_weight_decay([model.layers[0].kernel], ["bias"])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(images(), LABELS, verbose=0)
    forged, lowered = both(model)
    assert int(forged.optimizer.iterations) == 1
    for each in (model, lowered):
        each.fit(images(), LABELS, verbose=0, shuffle=False, batch_size=4)
    assert_same(lowered.variables, model.variables)
    assert_same(lowered.optimizer.variables, model.optimizer.variables)


def test_a_layer_that_was_frozen_after_compile():
    model = stack(*body(), *head())
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images(), LABELS, verbose=0)
    model.layers[0].trainable = False
    for other in both(model):
        assert_same(other.optimizer.variables, model.optimizer.variables)
        assert not other.layers[0].trainable


def test_a_compiled_model_inside_of_a_compiled_model():
    inner = stack(*body(), *head(2))
    inner.compile("adam", lambda truth, guess: ops.mean(guess))
    inner.fit(images(), LABELS, verbose=0)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, inner(layers.Conv2D(2, 3, padding="same")(inputs)))
    model.compile("sgd", lambda truth, guess: ops.mean(guess**2))
    forged, lowered = both(model)
    assert model.compiled
    assert inner.compiled
    for other in (forged, lowered):
        assert other.compiled
        assert int(other.layers[-1].optimizer.iterations) == 1
        other.layers[-1].fit(images(), LABELS, verbose=0)


def test_an_optimizer_that_cannot_be_copied():
    class Closed(keras.optimizers.SGD):
        def __init__(self, secret):
            super().__init__(0.1)

    model = stack(layers.Conv2D(2, 3), *head())
    model.compile(Closed(1), "sparse_categorical_crossentropy")
    with pytest.raises(
        UsageError, match=r"'closed' \(Closed\) cannot be copied.*compile the model"
    ):
        forge(model, "numba")
    assert model.compiled


def test_models_that_share_layers():
    shared = layers.Conv2D(4, 3, activation="relu", padding="same")
    first, second = stack(shared, layers.MaxPooling2D()), stack(shared, layers.AveragePooling2D(2))
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.Concatenate()([first(inputs), second(inputs)]))
    forged, _ = both(model)
    assert len(forged.weights) == 2
    assert type(forged.layers[1].layers[0]) is Conv2D
    assert forged.layers[1].layers[0] is forged.layers[2].layers[0]
    both(first)
