"""Each layer of Keras gives its answer in a plan, or is refused with its name and the reason."""

import keras
import numpy as np
import pytest
from keras import layers

from cnnforge_kernels.plan import Plan, interpret, optimize
from cnnforge_plugins.inference.builder import build, express
from cnnforge_plugins.inference.runner import open_plan

SHAPE = (8, 6, 4)


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def randomize(model):
    """Give biases, statistics and scales values as if trained, else folding is hardly tested."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("bias", "beta", "moving_mean"):
            weight.assign(random.normal(0, 0.1, weight.shape))
        elif kind in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.7, 1.4, weight.shape))
    return model


def chain(*parts, shape=SHAPE):
    """A model of layers, or functions of tensors, one after another."""
    outputs = inputs = keras.Input(shape)
    for part in parts:
        outputs = part(outputs)
    return keras.Model(inputs, outputs)


def check(model, count=3, dtype=np.float32):
    """Compare the program, the program with merged steps, and the plan with the model."""
    randomize(model)
    random = np.random.default_rng(2)
    shape = (count, *model.inputs[0].shape[1:])
    x = random.uniform(-2, 2, shape).astype(np.float32)
    if dtype == np.uint8:
        x = random.integers(0, 256, shape, np.uint8)
    expected = model.predict(x, verbose=0)
    program = express(model)
    merged = optimize(program)
    for result in (interpret(program, x), interpret(merged, x), Plan(merged).predict(x)):
        keras.tree.assert_same_structure(result, expected)
        pairs = zip(keras.tree.flatten(result), keras.tree.flatten(expected), strict=True)
        for found, wanted in pairs:
            scale = max(np.abs(wanted).max(), 1e-3)
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * scale)
    return merged


def normalization(**options):
    return layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 0.5, 4.0], **options)


def branches(merge, *makers):
    def apply(inputs):
        return merge([make(inputs) for make in makers])

    return apply


LAYERS = {
    "convolution": layers.Conv2D(5, 3, activation="relu"),
    "convolution, same": layers.Conv2D(5, (4, 3), strides=(2, 1), padding="same", activation="elu"),
    "convolution, dilated": layers.Conv2D(6, 3, dilation_rate=2, padding="same", groups=2),
    "convolution without bias": layers.Conv2D(5, 1, strides=2, use_bias=False),
    "depthwise": layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu6"),
    "depthwise, multiplied": layers.DepthwiseConv2D((2, 3), depth_multiplier=2, use_bias=False),
    "separable": layers.SeparableConv2D(5, 3, depth_multiplier=2, padding="same"),
    "dense on pixels": layers.Dense(5, activation="tanh"),
    "normalization of batches": layers.BatchNormalization(),
    "without scale and center": layers.BatchNormalization(scale=False, center=False),
    "axis by its number": layers.BatchNormalization(axis=3),
    "rescaling": layers.Rescaling(1 / 255, -0.5),
    "rescaling by channel": layers.Rescaling([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, 1.0]),
    "normalization": normalization(),
    "normalization, inverted": normalization(invert=True),
    "normalization by one number": layers.Normalization(axis=None, mean=0.5, variance=2.0),
    "max pool": layers.MaxPooling2D(2),
    "max pool, same": layers.MaxPooling2D(3, strides=2, padding="same"),
    "average pool": layers.AveragePooling2D((2, 3)),
    "average pool, same": layers.AveragePooling2D(3, strides=2, padding="same"),
    "global average": layers.GlobalAveragePooling2D(),
    "global average, axes": layers.GlobalAveragePooling2D(keepdims=True),
    "global maximum": layers.GlobalMaxPooling2D(),
    "zeros": layers.ZeroPadding2D(((1, 0), (2, 1))),
    "zeros for channels": layers.ZeroPadding2D(((0, 0), (1, 2)), data_format="channels_first"),
    "zeros for columns": layers.ZeroPadding2D(((1, 2), (0, 0)), data_format="channels_first"),
    "crop": layers.Cropping2D(((1, 0), (2, 1))),
    "upsampling": layers.UpSampling2D((2, 3)),
    "upsampling, bilinear": layers.UpSampling2D(2, interpolation="bilinear"),
    "flatten": layers.Flatten(),
    "reshape": layers.Reshape((4, -1, 6)),
    "dropout": layers.Dropout(0.5),
    "dropout in training": lambda x: layers.Dropout(0.5)(x, training=True),
    "statistics of the batch": lambda x: layers.BatchNormalization()(x, training=True),
    "dropout of channels": layers.SpatialDropout2D(0.5),
    "alpha dropout": layers.AlphaDropout(0.5),
    "gaussian dropout": layers.GaussianDropout(0.5),
    "noise": layers.GaussianNoise(0.5),
    "regularization": layers.ActivityRegularization(0.1),
    "identity": layers.Identity(),
    "random flip": layers.RandomFlip(),
    "random rotation": layers.RandomRotation(0.3),
    "random translation": layers.RandomTranslation(0.3, 0.3),
    "random zoom": layers.RandomZoom(0.5),
    "random brightness": layers.RandomBrightness(0.5),
    "random contrast": layers.RandomContrast(0.5),
    "relu": layers.ReLU(),
    "relu6": layers.ReLU(6.0),
    "relu with a slope": layers.ReLU(negative_slope=0.25),
    "relu with everything": layers.ReLU(1.5, negative_slope=0.25, threshold=0.5),
    "leaky relu": layers.LeakyReLU(0.1),
    "elu": layers.ELU(0.5),
    "softmax": layers.Softmax(),
    "a layer as activation": layers.Conv2D(5, 1, activation=layers.LeakyReLU(0.3)),
    **{
        name: layers.Activation(name)
        for name in (
            "linear", "relu", "relu6", "leaky_relu", "sigmoid", "softmax", "tanh", "elu", "silu",
            "selu",
            "swish", "softplus", "softsign", "exponential", "hard_sigmoid", "hard_silu", "gelu",
            "mish",
        )
    },
    "activation of ops": layers.Activation(keras.ops.gelu),
    "add": branches(layers.Add(), layers.ReLU(), layers.Conv2D(4, 1)),
    "add three": branches(layers.Add(), layers.ReLU(), layers.Identity(), layers.Conv2D(4, 1)),
    "subtract": branches(layers.Subtract(), layers.ReLU(), layers.Conv2D(4, 1)),
    "multiply": branches(layers.Multiply(), layers.ReLU(), layers.Conv2D(4, 1)),
    "squeeze and excite": branches(
        layers.Multiply(), layers.ReLU(), layers.GlobalAveragePooling2D(keepdims=True)
    ),
    "maximum": branches(layers.Maximum(), layers.ReLU(), layers.Conv2D(4, 1)),
    "minimum": branches(layers.Minimum(), layers.ReLU(), layers.Conv2D(4, 1)),
    "average": branches(layers.Average(), layers.ReLU(), layers.Conv2D(4, 1)),
    "concatenate": branches(layers.Concatenate(), layers.ReLU(), layers.Conv2D(3, 1)),
    "concatenate the same": branches(layers.Concatenate(), layers.Identity(), layers.Identity()),
    "operators": lambda x: 2 - (x * 3 + 1) / 4 - x,
    "operator by channel": lambda x: x * np.array([1.0, 2.0, 3.0, 4.0], "float32"),
    "division": lambda x: x / 8,
    "ops": lambda x: keras.ops.sigmoid(keras.ops.relu(x) + keras.ops.tanh(x)),
    "ops with options": lambda x: keras.ops.leaky_relu(keras.ops.elu(x, 0.5), 0.1),
    "selu of ops": lambda x: keras.ops.selu(x),
    "flip": lambda x: keras.ops.flip(x, -1),
    "reshape of ops": lambda x: keras.ops.reshape(x, (-1, 24, 8)),
    "concatenate of ops": lambda x: keras.ops.concatenate([x, keras.ops.silu(x)], -1),
    "softmax of ops": lambda x: keras.ops.softmax(x),
    "maximum of ops": lambda x: keras.ops.maximum(x, keras.ops.relu6(x) - 1),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    check(chain(LAYERS[name]))


def test_bytes():
    check(chain(layers.Rescaling(1 / 255), layers.Conv2D(5, 3, padding="same")), dtype=np.uint8)


def test_adapted_normalization():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3, 2, (20, *SHAPE)).astype("float32"))
    check(chain(layer))


def test_sequential():
    parts = [keras.Input(SHAPE), layers.Conv2D(5, 3), layers.Flatten(), layers.Dense(3)]
    check(keras.Sequential(parts))


def test_models_inside_models():
    inner = chain(layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization())
    outer = keras.Sequential([keras.Input(SHAPE), layers.ReLU(), inner, layers.Dropout(0.3)])
    merged = check(chain(outer, layers.GlobalAveragePooling2D()))
    assert [step.kind for step in merged.steps[1:]] == [
        "activation",
        "convolution",
        "global_average_pool",
    ]


def test_a_layer_and_a_model_that_are_called_twice():
    layer = layers.Conv2D(4, 3, padding="same")
    inner = chain(layers.BatchNormalization(), layers.ReLU())
    merged = check(chain(layer, inner, layer, inner))
    assert len(merged.steps) == 3


def test_weights_of_a_shared_layer_are_kept_once():
    layer = layers.Conv2D(4, 3, padding="same")
    program = express(chain(layer, layers.ReLU(), layer))
    first, second = (step for step in program.steps if step.kind == "convolution")
    assert first.arrays["weights"] is second.arrays["weights"]


def test_structures_of_outputs():
    inputs = keras.Input(SHAPE)
    maps = layers.Conv2D(4, 3, name="maps")(inputs)
    classes = layers.Dense(3, name="classes")(layers.GlobalAveragePooling2D()(maps))
    for outputs in (maps, [maps], [maps, classes], {"a": maps, "b": classes}, [maps, maps]):
        check(keras.Model(inputs, outputs))


def test_a_detector():
    """Features of two resolutions are joined, and each has two outputs."""
    inputs = keras.Input((16, 16, 3))
    padded = layers.ZeroPadding2D(((0, 1), (0, 1)))(layers.Rescaling(1 / 255, -0.5)(inputs))
    fine = layers.Conv2D(6, 3, strides=2, activation="relu")(padded)
    coarse = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(fine)
    up = layers.UpSampling2D(2, interpolation="nearest")(layers.Conv2D(6, 1)(coarse))
    joined = layers.Concatenate()([layers.Add()([up, fine]), fine])
    outputs = {}
    for name, maps in {"fine": joined, "coarse": coarse}.items():
        boxes = layers.Conv2D(4, 3, padding="same")(maps)
        scores = layers.Conv2D(5, 1, activation="sigmoid")(maps)
        outputs[name] = [layers.Reshape((-1, 4))(boxes), layers.Reshape((-1, 5))(scores)]
    check(keras.Model(inputs, outputs), dtype=np.uint8)


def test_the_input_is_an_output():
    inputs = keras.Input(SHAPE)
    check(keras.Model(inputs, [inputs, layers.ReLU()(inputs)]))


def test_a_part_of_a_model():
    model = chain(layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU())
    check(keras.Model(model.inputs, model.layers[1].output))


def test_file(tmp_path):
    model = randomize(chain(layers.Conv2D(5, 3), layers.BatchNormalization(), layers.ReLU()))
    build(model, tmp_path / "plan.npz")
    plan = open_plan(tmp_path / "plan.npz")
    assert plan.image_shape == SHAPE
    x = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(plan.predict(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_pixels(value):
    parts = [
        layers.Rescaling(1 / 255, -1),
        layers.Conv2D(6, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        # TensorFlow's max pool passes over a NaN, ours does not: see docs/design.md.
        layers.AveragePooling2D(2) if np.isnan(value) else layers.MaxPooling2D(2),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.ReLU(6.0),
        layers.Conv2D(8, 1),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, activation="softmax"),
    ]
    model = randomize(chain(*parts))
    x = np.random.default_rng(2).uniform(0, 255, (3, *SHAPE)).astype(np.float32)
    x[1, 4, 3, 2] = value
    result = Plan(optimize(express(model))).predict(x)
    # `predict` of Keras replaces NaN by 0 where TensorFlow merges a convolution and a ReLU.
    np.testing.assert_allclose(result, model(x), atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_special_weights(value):
    convolution = layers.Conv2D(6, 3, activation="relu")
    model = randomize(chain(convolution, layers.GlobalAveragePooling2D(), layers.Dense(3)))
    weights = convolution.get_weights()
    weights[0][1, 1, 2, 3] = value
    convolution.set_weights(weights)
    x = np.random.default_rng(2).uniform(0, 1, (3, *SHAPE)).astype(np.float32)
    result = Plan(optimize(express(model))).predict(x)
    np.testing.assert_allclose(result, model(x), rtol=1e-4, atol=1e-5)


class Doubled(keras.Model):
    """A model whose code is its own."""

    def call(self, inputs):
        return 2 * inputs


class OwnCall(keras.Model):
    """A functional model with a call of its own."""

    def call(self, inputs):
        return super().call(inputs) + 1


class OwnConv(layers.Conv2D):
    """A subclass of a layer that is known."""


def own_functional():
    inputs = keras.Input(SHAPE)
    return OwnCall(inputs, layers.ReLU()(inputs))


def two_inputs():
    first, second = keras.Input(SHAPE), keras.Input(SHAPE)
    return keras.Model([first, second], layers.Add()([first, second]))


def masked():
    inputs = keras.Input(SHAPE)
    mask = keras.ops.greater(inputs, 0)
    return keras.Model(inputs, layers.Softmax(name="masked")(inputs, mask=mask))


def in_half():
    return chain(layers.Conv2D(4, 3, dtype="mixed_float16", name="half"))


REFUSED = {
    "a model with its own code": (Doubled, "the model is neither Sequential nor Functional"),
    "a functional model with its own call": (own_functional, "neither Sequential nor Functional"),
    "a model that is not built": (lambda: keras.Sequential([layers.ReLU()]), "is not built"),
    "two inputs": (two_inputs, "the model has 2 inputs"),
    "vectors": (lambda: chain(layers.Dense(3), shape=(7,)), r"not images of a fixed size: \(7,\)"),
    "open size": (lambda: chain(layers.ReLU(), shape=(None, None, 3)), "not images of a fixed"),
    "bytes": (
        lambda: keras.Sequential([keras.Input(SHAPE, dtype="uint8"), layers.Rescaling(1 / 255)]),
        "the inputs of the model are uint8",
    ),
    "half precision": (in_half, r"layer 'half' \(Conv2D\): it computes in float16"),
    "a function": (
        lambda: chain(layers.Lambda(lambda x: x, name="own")),
        r"layer 'own' \(Lambda\): there is no kernel for layers of this class",
    ),
    "a class of its own": (
        lambda: chain(OwnConv(3, 3, name="mine")),
        r"layer 'mine' \(OwnConv\): its call applies no ArrayOp, expected exactly one",
    ),
    "a model with its own code inside": (
        lambda: keras.Sequential([keras.Input(SHAPE), Doubled(name="deep")]),
        "the model 'deep' inside the model is neither",
    ),
    "a layer inside a model": (
        lambda: chain(keras.Sequential([layers.UnitNormalization(name="it")], name="inner")),
        r"layer 'inner/it' \(UnitNormalization\)",
    ),
    "channels first": (
        lambda: chain(layers.MaxPooling2D(2, data_format="channels_first", name="pool")),
        r"layer 'pool' \(MaxPooling2D\): its images have the channels first",
    ),
    "another axis": (
        lambda: chain(layers.BatchNormalization(axis=1, name="norm")),
        r"layer 'norm' \(BatchNormalization\): its axis 1 is not the last",
    ),
    "another axis of a softmax": (
        lambda: chain(layers.Softmax(axis=1, name="it")),
        "its axis 1 is not the last",
    ),
    "another axis of a concatenation": (
        lambda: chain(branches(layers.Concatenate(axis=1), layers.ReLU(), layers.Identity())),
        "its axis 1 is not the last",
    ),
    "another axis of a flip": (
        lambda: chain(lambda x: keras.ops.flip(x, 1)),
        "its axis 1 is not the last",
    ),
    "statistics of each pixel": (
        lambda: chain(layers.Normalization(axis=(1, 3), mean=0.0, variance=1.0)),
        "other numbers than one for each channel",
    ),
    "a cubic interpolation": (
        lambda: chain(layers.UpSampling2D(2, interpolation="bicubic")),
        "its interpolation bicubic is not known",
    ),
    "an activation of one's own": (
        lambda: chain(layers.Conv2D(3, 3, activation=lambda x: x + 1, name="conv")),
        r"layer 'conv' \(Conv2D\): its activation <lambda> is not known",
    ),
    "a mask": (masked, r"\(Greater\): there is no kernel for this operation"),
    "an operation": (lambda: chain(lambda x: keras.ops.sort(x)), r"\(Sort\): there is no kernel"),
    "a division": (lambda: chain(lambda x: 1 / x), "no kernel for these operands"),
    "different ranks": (
        lambda: chain(
            branches(layers.Multiply(name="gate"), layers.ReLU(), layers.GlobalMaxPooling2D())
        ),
        r"layer 'gate' \(Multiply\): its inputs have different numbers of dimensions",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    make, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason) as raised:
        build(make(), tmp_path / "plan.npz")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
