"""`ArrayOp.call_of` finds the call that computes a tensor, and only in the graph that is built."""

import numba
import numpy as np
import tensorflow as tf

from cnnforge.ops import ArrayOp


@numba.njit
def forward(inputs, factor, shift, outputs):
    outputs[:] = inputs * np.float32(factor) + np.float32(shift[0])


def op_named(name):
    return ArrayOp(
        name,
        forward=forward,
        inputs={"inputs": 1},
        outputs={"outputs": 1},
        output_shapes=lambda inputs: inputs,
        attributes={"factor": 1.0, "shift": (0,)},
    )


scale, other = op_named("call_of_scale"), op_named("call_of_other")
ONES = tf.ones(3)


def traced(function):
    """Return what a function of a tensor returns while its graph is built."""
    found = []
    tf.function(lambda x: found.append(function(x)), autograph=False).get_concrete_function(ONES)
    return found[0]


def test_inputs_and_attributes():
    def find(x):
        return x, scale.call_of(scale(x, factor=2.5, shift=(4,)))

    x, (inputs, attributes) = traced(find)
    assert inputs[0] is x
    assert attributes == {"factor": 2.5, "shift": (4,)}


def test_a_layer_that_computes_both():
    def both(x):
        found = scale.call_of(scale(x, factor=3.0))
        assert found is not None
        inputs, attributes = found
        return other(*inputs, **{**attributes, "shift": (1,)})

    np.testing.assert_array_equal(tf.function(both, autograph=False)(ONES), [4, 4, 4])


def test_tensors_that_no_call_of_the_op_computes():
    assert scale.call_of(scale(ONES)) is None
    assert scale.call_of(np.ones(3)) is None
    assert traced(lambda x: scale.call_of(other(x))) is None
    assert traced(lambda x: scale.call_of(scale(x) + 1.0)) is None
    assert traced(scale.call_of) is None
    assert traced(lambda _: scale.call_of(ONES)) is None


def test_a_tensor_of_another_graph():
    def outside(x):
        made = scale(x)
        found = []
        tf.function(lambda: found.append(scale.call_of(made)), autograph=False)()
        return found[0], scale.call_of(made) is not None

    assert traced(outside) == (None, True)
