"""The estimate of parameters and memory, and what is said when memory is short."""

import random
from functools import partial

import keras
import numpy as np
import pytest

from cnnforge.configuration import TrainingOptions
from cnnforge.errors import CnnforgeError, UsageError
from cnnforge.plugin import ModelSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.tasks.classification import Classification
from cnnforge.training import prepare
from cnnforge.training.building import build_model
from cnnforge.training.memory import (
    Estimate,
    check_memory,
    estimate,
    max_size_that_fits,
    out_of_memory_explained,
)
from cnnforge.utils.keras_graph import output_values

GB = 10**9
TASK = Classification(("a", "b", "c"))
MODELS = discover().models
LENET, RESNET = MODELS["lenet"], MODELS["resnet20"]


def guess(shape, reference="lenet", batch_size=64, models=MODELS, **options):
    return estimate(reference, models, TASK, TrainingOptions(**options), batch_size, shape)


def of(**numbers):
    values = {"parameters": 10, "trainable": 10, "slots": 2, "outputs": 100, "batch_size": 4}
    return Estimate(model="net", image_shape=(64, 48, 3), **{**values, **numbers})


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (16, 24, 3)])
def test_the_numbers_are_those_of_the_model(name, shape):
    found = guess(shape, name)
    model = build_model(name, MODELS, TASK, shape)
    assert found.parameters == model.count_params()
    assert found.trainable == sum(np.prod(v.shape) for v in model.trainable_weights)
    assert found.outputs == output_values(model)
    assert found.image_shape == shape


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({}, 2),
        ({"optimizer": "sgd"}, 0),
        ({"optimizer": "sgd", "momentum": 0.9, "ema": 0.9}, 2),
        ({"schedule": "cosine", "warmup_epochs": 2, "epochs": 4}, 2),
    ],
)
def test_the_variables_of_the_optimizer_count(options, slots):
    assert guess((28, 28, 1), **options).slots == slots


def test_the_same_seed_gives_the_same_weights_after_an_estimate():
    def build():
        prepare(3)
        return build_model("resnet20", MODELS, TASK, (16, 16, 3)).get_weights()

    expected = build()
    guess((16, 16, 3), "resnet20")
    for before, after in zip(expected, build(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_an_estimate_leaves_no_trace():
    before = int(keras.layers.Conv2D(1, 1).name.partition("_")[2] or 0)
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    assert guess((28, 28, 1), "unnamed", models=registry(unnamed)) is not None
    assert (random.random(), np.random.rand()) == expected
    assert keras.layers.Conv2D(1, 1).name == f"conv2d_{before + 1}"


def test_weights_of_an_estimate_never_get_values():
    # The end of a scope gives values to all variables that have none. Those of this model would
    # need 1.6 TB.
    assert guess((40_000, 40_000, 3)) is not None
    with keras.StatelessScope():
        pass


class FakeSpec:
    name, qualified_name, sizes = "unnamed", "acme/unnamed", ()

    def __init__(self, build):
        self.load = lambda: build


def unnamed(shape, classes):
    random.random()
    np.random.rand()
    layers = keras.layers
    body = [layers.Conv2D(4, 3), layers.Dropout(0.5), layers.Flatten()]
    return keras.Sequential(
        [keras.Input(shape), *body, layers.Dense(classes, activation="softmax")]
    )


def registry(build):
    """A registry of one model, `unnamed`, that the function builds."""
    return {"unnamed": FakeSpec(build)}


def with_loaded_weights(shape, classes):
    model = unnamed(shape, classes)
    model.layers[0].kernel.assign(np.ones(model.layers[0].kernel.shape))
    keras.Variable(np.ones(3))
    return model


@pytest.mark.parametrize("build", [with_loaded_weights, lambda shape, classes: 1 / 0])
def test_a_model_that_needs_values_has_no_estimate(build):
    assert guess((28, 28, 1), "unnamed", models=registry(build)) is None


def test_the_policy_of_the_caller_is_used():
    seen = []

    def build(shape, classes):
        seen.append(keras.config.dtype_policy().name)
        return unnamed(shape, classes)

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        guess((28, 28, 1), "unnamed", models=registry(build))
    finally:
        keras.config.set_dtype_policy(before)
    assert seen == ["mixed_bfloat16"]


def test_a_model_of_billions_is_refused_before_it_is_allocated():
    found = guess((3024, 4032, 3))
    assert found.parameters > 3e9
    with pytest.raises(UsageError) as raised:
        check_memory(found, 8 * GB, LENET, guess)
    line = str(raised.value)
    assert "has 3.1 billion parameters for images of 3024x4032x3" in line
    assert "8.0 GB are available: give --image-size 72x96" in line
    # No batch is small enough for the weights.
    assert "--batch-size" not in line


def test_a_batch_that_is_too_large():
    shape = (128, 128, 3)
    found = guess(shape, "resnet20", batch_size=1024)
    with pytest.raises(UsageError, match=r"give --image-size 16x16 or --batch-size 32$"):
        check_memory(found, 2 * GB, RESNET, partial(guess, reference="resnet20", batch_size=1024))


def test_an_estimate_near_the_limit_is_a_note():
    found = guess((96, 96, 3), "resnet20", batch_size=256)
    limit = (found.training + found.min_training) // 2
    (note,) = check_memory(found, limit, RESNET, lambda shape: None)
    assert note.startswith("training may run out of memory, because it needs about 6.2 GB")
    assert note.endswith(": give --batch-size 128")


def test_enough_memory_or_an_unknown_machine():
    found = guess((28, 28, 1))
    assert check_memory(found, 8 * GB, LENET, guess) == ()
    assert check_memory(found, None, LENET, guess) == ()


def test_fixed_sizes_are_suggested():
    spec = ModelSpec(
        name="net", target="a:b", summary="", sizes=((64, 48), (32, 24), (16, 12), (8, 8))
    )
    sizes = []

    def at_shape(shape):
        sizes.append(shape)
        return of(outputs=1000 if shape[0] > 16 else 1)

    with pytest.raises(UsageError, match="--image-size 16x12"):
        check_memory(of(outputs=10_000), 4000, spec, at_shape)
    assert sizes == [(32, 24, 3), (16, 12, 3)]


def test_no_size_helps():
    found = of(parameters=GB, trainable=GB)
    with pytest.raises(UsageError, match=r"GB are available: use a smaller model$"):
        check_memory(found, GB, LENET, lambda shape: found)


def test_a_large_run_directory_is_a_note():
    (note,) = check_memory(guess((240, 320, 3)), 99 * GB, LENET, guess)
    assert note == (
        "the run directory takes about 551 MB, since the model has 19.7 million parameters for "
        "images of 240x320x3: --image-size 72x96 makes it smaller"
    )
    # The size of the images changes nothing here.
    large = of(parameters=10**8, trainable=10**8)
    assert check_memory(large, 99 * GB, LENET, lambda shape: large) == ()


def test_the_line_for_the_user():
    text = guess((96, 72, 3)).describe()
    assert (
        text == "lenet for 96x72x3 images: 1.8 million parameters, about 113 MB of memory to train"
    )
    assert ": 270,643 parameters" in guess((32, 32, 3), "resnet20").describe()


def test_numbers_for_the_run():
    assert of().as_dict() == {
        "parameters": 10,
        "batch_size": 4,
        "training_memory": 1800,
        "run_directory": 280,
    }


def test_memory_that_runs_out_is_explained():
    with pytest.raises(CnnforgeError) as raised, out_of_memory_explained(of(parameters=10**9)):
        raise MemoryError
    assert str(raised.value) == (
        "memory ran out (net for 64x48x3 images: 1.0 billion parameters, about 24 GB of memory to "
        "train): start a new run with a smaller --image-size or --batch-size"
    )
    with pytest.raises(CnnforgeError, match=r"^memory ran out: "), out_of_memory_explained(None):
        raise MemoryError
    with pytest.raises(ZeroDivisionError), out_of_memory_explained(None):
        _ = 1 / 0


def test_a_model_for_which_there_is_no_memory_is_no_broken_plugin():
    def build(shape, classes):
        raise MemoryError

    with pytest.raises(MemoryError):
        build_model("unnamed", registry(build), TASK, (28, 28, 1))


def test_the_default_size_is_bounded_by_the_memory():
    found = guess((96, 80, 3))
    limit = max_size_that_fits(found, found.training - 1, LENET, guess)
    assert limit == 48
    assert guess((48, 40, 3)).training < found.training / 2
    assert max_size_that_fits(found, found.training, LENET, guess) is None
    assert max_size_that_fits(found, None, LENET, guess) is None
    assert max_size_that_fits(found, 1, LENET, guess) is None
    fixed = ModelSpec(name="net", target="a:b", summary="", sizes=((96, 80), (48, 40)))
    assert max_size_that_fits(found, found.training - 1, fixed, guess) is None
