"""Initial weights from a run or a file: what is taken, what is not, and what is said."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from cnnforge.errors import RunError, UsageError
from cnnforge.plugin_host.discovery import discover
from cnnforge.runs import RunDirectory
from cnnforge.tasks.classification import Classification
from cnnforge.training.initial_weights import take_weights

PLUGINS = discover()
layers = keras.layers


def small(shape=(8, 8, 3), classes=2, *, names=True, between=()):
    """Two convolutions, two dense layers; the names of the layers are Keras' own or given."""

    def name(text):
        return {"name": text} if names else {}

    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(4, 3, padding="same", **name("first")),
            *between,
            layers.BatchNormalization(**name("norm")),
            layers.Conv2D(5, 3, padding="same", **name("second")),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(6, **name("hidden")),
            layers.Dense(classes, activation="softmax", **name("head")),
        ],
        name="small",
    )


def filled(model, start=100.0):
    """Give each weight values of its own; return the model."""
    for number, variable in enumerate(model.weights):
        variable.assign(np.full(variable.shape, start + number))
    return model


@pytest.fixture
def saved(tmp_path):
    """Return `saved(model, classes)`: the path of a `.keras` file, or of a run with classes."""

    def saved(model, classes=None, name="old") -> Path:
        filled(model)
        if classes is None:
            model.save(tmp_path / f"{name}.keras")
            return tmp_path / f"{name}.keras"
        run = RunDirectory.create(tmp_path / "runs", name, "data")
        model.save(run.model)
        task = Classification(classes)
        task.write(run)
        run.write_config({"model": name}, {"model": f"acme/{name}", "task": "classification"})
        return run.path

    return saved


def task_of(count, *names):
    return Classification(names or tuple("abcdefghij"[:count]))


def take(model, path, *classes):
    task = task_of(model.output_shape[-1], *classes)
    return take_weights(model, path, task, PLUGINS)


def values(model):
    """The value that fills each weight, or `None`, by the name of its layer."""
    found = {}
    for layer in model.layers:
        for variable in layer.weights:
            array = keras.ops.convert_to_numpy(variable)
            same = array.size and (array == array.flat[0]).all() and array.flat[0] >= 100
            found[f"{layer.name}/{variable.name}"] = float(array.flat[0]) if same else None
    return found


def test_everything_fits(saved):
    model = small()
    path = saved(small(), ("a", "b"))
    found = take(model, path)
    assert list(values(model).values()) == [100.0 + number for number in range(12)]
    assert found.describe() == f"took all 12 weights from {path}"
    assert not found.new
    assert not found.unused


def test_another_number_of_classes(saved):
    model = small(classes=3)
    path = saved(small(), ("cat", "dog"))
    found = take(model, path, "bird", "cat", "dog")
    assert found.describe() == (
        f"took 10 of 12 weights from {path}; new: head/kernel (6x3 instead of 6x2), head/bias "
        "(3 instead of 2)"
    )
    now = values(model)
    assert now["head/kernel"] is None
    assert now["hidden/bias"] == 109


@pytest.mark.parametrize("classes", [("dog", "cat"), ("cat", "cow")])
def test_other_classes_or_another_order(saved, classes):
    model = small()
    before = [keras.ops.convert_to_numpy(v) for v in model.layers[-1].weights]
    found = take(model, saved(small(), ("cat", "dog")), *classes)
    assert found.new == {"head/kernel": "other classes", "head/bias": "other classes"}
    for old, variable in zip(before, model.layers[-1].weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), old)


def test_the_outputs_of_another_task_start_again(saved):
    class Other(Classification):
        pass

    path = saved(small(), ("a", "b"))
    found = take_weights(small(), path, Other(("a", "b")), PLUGINS)
    assert found.new == {"head/kernel": "another task", "head/bias": "another task"}


def test_the_model_file_of_a_run_has_the_classes_of_the_run(saved):
    path = saved(small(), ("cat", "dog")) / "model.keras"
    assert list(take(small(), path, "dog", "cat").new) == ["head/kernel", "head/bias"]


def test_a_file_without_classes_says_how_its_outputs_count(saved):
    path = saved(small())
    found = take(small(), path, "dog", "cat")
    assert not found.new
    assert found.describe().endswith(
        f"{path} names no classes: its outputs count as dog, cat, in this order"
    )


def test_damaged_classes_count_as_unknown(saved):
    path = saved(small(), ("cat", "dog"))
    (path / "classes.json").write_text("{")
    assert "names no classes" in take(small(), path).hint


def test_gray_images_for_a_model_of_color_images(saved):
    path = saved(small(), ("a", "b"))
    model = small((8, 8, 1))
    found = take(model, path)
    # The bias was trained with this kernel, and is not used without it.
    assert found.new == {"first/kernel": "3x3x1x4 instead of 3x3x3x4", "first/bias": ""}
    assert values(model)["second/kernel"] == 106
    assert found.hint == f"with --color rgb, as in {path}, the first layer fits"
    assert "--color grayscale" in take(small(), saved(small((8, 8, 1)), ("a", "b"))).hint


def test_four_channels(saved):
    found = take(small(), saved(small((8, 8, 4)), ("a", "b")))
    assert found.hint.endswith("is for images of 4 channels")


def test_another_image_size(saved):
    path = saved(small(), ("a", "b"))
    found = take(small((8, 9, 3)), path)
    assert list(found.new) == ["hidden/kernel", "hidden/bias"]
    assert found.hint == f"with --image-size 8x8, as in {path}, more layers fit"


def test_another_color_changes_a_dense_layer(saved):
    def flat(channels):
        return keras.Sequential(
            [
                keras.Input((4, 4, channels)),
                layers.Flatten(),
                layers.Dense(5, name="hidden"),
                layers.Dense(5, name="more"),
                layers.Dense(2, name="head"),
            ]
        )

    found = take(flat(1), saved(flat(3), ("a", "b")))
    assert list(found.new) == ["hidden/kernel", "hidden/bias"]
    assert "--color rgb" in found.hint
    assert "--image-size" not in found.hint


def test_nothing_fits(saved):
    path = saved(small(), ("a", "b"), name="lenet")
    with pytest.raises(UsageError) as raised:
        take(PLUGINS.models["resnet20"].load()((8, 8, 3), 2), path)
    assert str(raised.value) == (
        f"--init-from: nothing in {path} (a run of the model lenet) fits the model resnet20, "
        "because no kernel has the same layer name and shape: use a run of the model resnet20, or "
        "leave out --init-from"
    )


def test_nothing_fits_because_of_the_color(saved):
    def one(channels):
        return keras.Sequential(
            [
                keras.Input((4, 4, channels)),
                layers.Conv2D(3, 3, name="only"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(channels + 1, name="head"),
            ]
        )

    model = one(1)
    before = model.get_weights()
    with pytest.raises(UsageError, match="with --color rgb, as in "):
        take(model, saved(one(3), ("a", "b", "c", "d")))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_names_that_keras_made_are_matched_by_order(saved):
    # The counters of the source are higher, and overlap with those of the model.
    model = small(names=False)
    take(model, saved(small(names=False), ("a", "b")))
    assert list(values(model).values()) == [100.0 + number for number in range(12)]


def test_a_layer_that_one_side_does_not_have(saved):
    path = saved(small(between=[layers.Conv2D(4, 1, name="extra")]), ("a", "b"))
    model = small()
    found = take(model, path)
    assert not found.new
    assert found.unused == ["extra/kernel", "extra/bias"]
    assert found.describe().endswith("; not used: extra/kernel, extra/bias")
    assert values(model)["second/kernel"] == 108
    deeper = take(small(between=[layers.Conv2D(4, 1, name="new")]), saved(small(), ("a", "b")))
    assert deeper.new == {"new/kernel": "", "new/bias": ""}


def test_models_inside_models(saved):
    def nested(number):
        inner = small((8, 8, 3), 4)
        inner.name = f"inner{number}"
        inputs = keras.Input((8, 8, 3))
        return keras.Model(inputs, layers.Dense(2, name="top")(inner(inputs)), name="outer")

    path = saved(nested(1), ("a", "b"))
    assert "inner1/first/kernel" in take(nested(1), path).taken
    # The layers inside another model have the same names, and each name occurs once.
    found = take(nested(2), path)
    assert len(found.taken) == 14
    found = take(small(classes=4), path)
    assert "first/kernel" in found.taken
    assert found.unused == ["top/kernel", "top/bias"]


def test_a_nested_output_layer_starts_again_for_other_classes(saved):
    def wrapped():
        inputs = keras.Input((8, 8, 3))
        return keras.Model(inputs, layers.Softmax()(small()(inputs)))

    found = take(wrapped(), saved(wrapped(), ("a", "b")), "a", "c")
    assert list(found.new) == ["small/head/kernel", "small/head/bias"]


class Pair(layers.Layer):
    """Two dense layers of the same name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one = layers.Dense(3, name="part")
        self.two = layers.Dense(3, name="part")

    def build(self, shape):
        self.one.build(shape)
        self.two.build(shape)

    def call(self, inputs):
        return self.one(inputs) + self.two(inputs)


def test_layers_of_one_name_inside_a_layer(tmp_path):
    def pair():
        return keras.Sequential(
            [keras.Input((4,)), Pair(name="pair"), layers.Dense(2, name="head")]
        )

    model = pair()
    path = tmp_path / "old.weights.h5"
    filled(pair()).save_weights(path)
    found = take(model, path)
    assert "pair/part/kernel" in found.new
    assert "pair/part#2/kernel" in found.new
    path = tmp_path / "old.keras"
    filled(pair()).save(path)
    with keras.saving.custom_object_scope({"Pair": Pair}):
        assert not take(model, path).new
    for variable, number in zip(model.weights, range(100, 106), strict=True):
        assert (np.asarray(variable) == number).all()


def test_a_bias_that_the_source_does_not_have(saved):
    def one(use_bias):
        return keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(3, name="hidden", use_bias=use_bias),
                layers.Dense(2, name="head"),
            ]
        )

    found = take(one(True), saved(one(False), ("a", "b")))
    assert found.new == {"hidden/bias": ""}
    assert "hidden/kernel" in found.taken


def test_integers_are_not_taken_for_numbers(saved):
    model = small()
    model.get_layer("hidden").quantize("int8")
    found = take(small(), saved(model, ("a", "b")))
    assert found.new == {"hidden/kernel": "float32 instead of int8", "hidden/bias": ""}


def test_seeds_stay_new(saved):
    model = small()
    old = small()
    before = [keras.ops.convert_to_numpy(v) for v in model.variables if "seed" in v.path]
    take(model, saved(old, ("a", "b")))
    now = [keras.ops.convert_to_numpy(v) for v in model.variables if "seed" in v.path]
    assert len(now) == 1
    np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("names", [True, False])
def test_a_weights_file(tmp_path, names):
    path = tmp_path / "old.weights.h5"
    filled(small(names=names)).save_weights(path)
    model = small(names=names)
    found = take(model, path)
    assert len(found.taken) == 12
    assert list(values(model).values()) == [100.0 + number for number in range(12)]
    found = take(small((8, 8, 1), 3, names=names), path)
    assert len(found.new) == 4
    assert found.hint == f"with --color rgb, as in {path}, the first layer fits"


def test_a_weights_file_whose_layer_has_fewer_weights(tmp_path):
    path = tmp_path / "old.weights.h5"
    old = small()
    old.layers[1].scale = True
    filled(old).save_weights(path)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same", name="first"),
            layers.BatchNormalization(name="norm", scale=False),
        ]
    )
    found = take(model, path, "a", "b")
    # Without names, gamma would be taken for beta.
    assert list(found.new) == ["norm/beta", "norm/moving_mean", "norm/moving_variance"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.pt", "takes a run, or a .keras or .weights.h5 file of Keras, not "),
        ("net.onnx", "not .*net.onnx$"),
        ("net.pkl", "not .*net.pkl$"),
        ("net.h5", "such a file may contain code: if you trust its author, add --trust-model"),
    ],
)
def test_other_formats_are_refused(tmp_path, name, expected):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=expected):
        take(small(), tmp_path / name)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UsageError, match="there is no file or run"):
        take(small(), tmp_path / "none.keras")
    for name in ("bad.weights.h5", "bad.keras"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(RunError, match=name):
            take(small(), tmp_path / name)


def test_long_lists_are_cut_and_the_record_has_all(saved):
    extra = [layers.Conv2D(4, 1, name=f"extra{number}") for number in range(5)]
    found = take(small(between=extra), saved(small(), ("a", "b")))
    assert "extra2/bias and 4 more" in found.describe()
    record = json.loads(json.dumps(found.as_dict()))
    assert len(record["new"]) == 10
    assert set(record) == {"source", "taken", "new", "unused"}
