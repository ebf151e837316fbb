"""Questions about models that Keras has no public answer to."""

import keras

from cnnforge.utils.keras_graph import (
    all_layers,
    input_shapes,
    model_parts,
    output_layers,
    output_values,
    single_links,
)

layers = keras.layers


def test_all_layers_and_parts():
    inner = keras.Sequential([keras.Input((3, 4)), layers.Dense(4, name="dense")], name="inner")
    wrapper = layers.TimeDistributed(layers.Dense(2, name="wrapped"), name="wrapper")
    model = keras.Sequential([keras.Input((3, 4)), inner, wrapper], name="outer")
    names = [layer.name for layer in all_layers(model)]
    assert names.index("outer") < names.index("inner") < names.index("dense")
    assert "wrapped" in names
    assert [part.name for part in model_parts(model)] == ["outer", "inner"]


def test_input_shapes():
    shared = layers.Conv2D(3, 3, name="shared")
    first, second = keras.Input((8, 8, 3)), keras.Input((None, 9, 3))
    twice = shared(shared(first))
    keras.Model([first, second], [twice, shared(second)])
    # Only the second call of the layer follows one with weights.
    assert input_shapes(shared) == {(8, 8, 3): False, (6, 6, 3): True, (32, 9, 3): False}


def test_input_shape_of_a_layer_inside_a_layer():
    inner = layers.Conv2D(2, 3)
    keras.Sequential([keras.Input((5, 8, 8, 3)), layers.TimeDistributed(inner)])
    assert input_shapes(inner) == {(8, 8, 3): True}
    assert input_shapes(layers.Conv2D(2, 3)) == {}


def pairs(model):
    return [(first.name, second.name) for first, second in single_links(model)]


def test_links_of_a_sequential_model():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(4, name="b")]
    )
    assert pairs(model) == [("a", "b")]


def test_links_of_a_functional_model():
    inputs = keras.Input((4,), name="inputs")
    a = layers.Dense(4, name="a")(inputs)
    b = layers.Dense(4, name="b")(a)
    c = layers.Dense(4, name="c")(b)
    # `b` has two consumers, and `d` is an output besides being one consumer's input.
    d = layers.Add(name="d")([b, c])
    e = layers.Dense(4, name="e")(d)
    found = set(pairs(keras.Model(inputs, [d, e])))
    assert {("a", "b"), ("c", "d")} <= found
    assert not {("b", "c"), ("b", "d"), ("d", "e")} & found


def test_links_need_layers_that_are_called_once():
    twice = layers.Dense(4, name="twice")
    inputs = keras.Input((4,), name="inputs")
    model = keras.Model(inputs, layers.Dense(4, name="last")(twice(twice(inputs))))
    assert not [pair for pair in pairs(model) if "twice" in pair]


def test_output_values():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(5), layers.Dense(6)])
    twice = layers.Dense(4)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inner(twice(twice(inputs))))
    # The inputs of both models count; the outputs of the inner model count once.
    assert output_values(model) == 4 + (4 + 4) + (4 + 5 + 6)
    opened = keras.Sequential([keras.Input((None, 3)), layers.Dense(2)])
    assert output_values(opened) == 32 * 3 + 32 * 2


def test_output_layers():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(6, name="a")])
    inputs = keras.Input((4,))
    a = layers.Softmax()(inner(layers.Dense(4)(inputs)))
    b = layers.Dense(2, name="b")(inputs)
    found = output_layers(keras.Model(inputs, [a, layers.Dropout(0.5)(b), b]))
    assert sorted(layer.name for layer in found) == ["a", "b"]
    assert output_layers(keras.Model(inputs, layers.ReLU()(inputs))) == []


def test_output_layers_of_a_model_without_a_graph():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    assert output_layers(Own()) == []
