"""Arguments of `forge`, `decide`, `lower` and `implementations` that mean nothing."""

from pathlib import Path

import keras
import numpy as np
import pytest

from cnnforge.conversion import decide, forge, implementations, lower
from cnnforge.errors import UsageError

layers = keras.layers


def model():
    return keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(2, 3)])


@pytest.mark.parametrize("function", [forge, decide, lower, implementations])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Path("runs/a/model.keras"), r"got 'runs/a/model.keras'.*keras.models.load_model"),
        (b"model.keras", "a value of the type bytes"),
        (None, "got None, expected a Keras model"),
        (layers.Conv2D(2, 3, name="edges"), r"the layer 'edges' \(Conv2D\).*keras.Sequential"),
        (keras.Sequential, r"the class Sequential.*Sequential\(\)"),
        ([layers.Conv2D(2, 3)], "a value of the type list"),
        (np.zeros(3), "a value of the type ndarray"),
    ],
    ids=str,
)
def test_something_else_than_a_model(function, value, message):
    with pytest.raises(UsageError, match=message) as error:
        function(value)
    assert f"{function.__name__}() got" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("function", [forge, decide])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Numba", "auto, numba or keras, got 'Numba'; did you mean 'numba'"),
        ("kears", "did you mean 'keras'"),
        ("tensorflow", "auto, numba or keras, got 'tensorflow'"),
        ("", "auto, numba or keras, got ''"),
        (None, "auto, numba, keras, got None"),
        (3, "auto, numba, keras, got 3"),
        (["numba"], r"auto, numba, keras, got \['numba'\]"),
    ],
)
def test_an_unknown_word(function, value, message):
    with pytest.raises(UsageError, match=message):
        function(model(), value)


@pytest.mark.parametrize("function", [forge, decide])
@pytest.mark.parametrize("kernels", ["auto", "numba", "keras"])
@pytest.mark.parametrize("value", [0, -3, 1.5, True, None, "64", np.int64(0)])
def test_a_batch_size_that_is_not_a_positive_whole_number(function, kernels, value):
    with pytest.raises(UsageError, match="batch_size must be a whole number of 1 or more"):
        function(model(), kernels, batch_size=value)


def test_what_means_something_is_taken(tmp_path):
    file = str(tmp_path / "choices.json")
    decided = decide(model(), batch_size=np.int64(2), cache_file=file)
    assert [it.kind for it in decided] == ["Conv2D"]
    assert Path(file).exists() == (decided[0].ratio is not None)
    assert forge(model(), []).built


def test_a_layer_whose_inputs_have_no_known_shape():
    class Half(layers.Layer):
        """Has no compute_output_shape, so Keras builds no layer after it."""

        def call(self, inputs):
            return inputs[:, ::2]

    inside = layers.TimeDistributed(Half())
    stack = [keras.Input((2, 8, 8, 2)), inside, layers.Reshape((8, 8, 2)), layers.Conv2D(2, 3)]
    with pytest.raises(UsageError, match=r"'conv2d\w*'.*has no weights yet.*compute_output_shape"):
        forge(keras.Sequential(stack), "numba")
