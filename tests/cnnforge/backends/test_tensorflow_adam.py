"""Adam in one op equals Keras' Adam, and is one op."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cnnforge.backends import with_one_op

KINDS = [keras.optimizers.Adam, keras.optimizers.AdamW]


def values(seed):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in [(3, 4), (7,), ()]]


def trained(kind, gradients=values, **arguments):
    """The weights and the state of the optimizer after five steps."""
    weights = [keras.Variable(value) for value in values(0)]
    optimizer = kind(0.01, **arguments)
    optimizer.build(weights)
    for step in range(5):
        optimizer.apply([tf.constant(one) for one in gradients(step + 1)], weights)
    return [keras.ops.convert_to_numpy(it) for it in (*weights, *optimizer.variables)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", [{}, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}])
def test_the_steps_are_those_of_keras(kind, arguments):
    expected = trained(kind, **arguments)
    found = trained(with_one_op(kind), **arguments)
    for one, other in zip(found, expected, strict=True):
        # The op rounds 1 - beta_2 to float32, by up to 2e-5 of its value.
        np.testing.assert_allclose(one, other, rtol=5e-5, atol=1e-6)
    assert not np.array_equal(found[0], values(0)[0])


def test_a_gradient_that_is_not_finite_reaches_only_its_weight():
    found = trained(
        with_one_op(keras.optimizers.Adam),
        lambda _: [values(1)[0], np.float32([np.nan] * 7), values(1)[2]],
    )
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_the_name_and_the_configuration_of_keras(kind):
    one = with_one_op(kind)
    assert one.__name__ == kind.__name__
    assert one(0.1, name="a").get_config() == kind(0.1, name="a").get_config()


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_graph_has_one_op_for_each_weight(amsgrad):
    weights = [keras.Variable(value) for value in values(0)]
    optimizer = with_one_op(keras.optimizers.Adam)(0.01, amsgrad=amsgrad)
    optimizer.build(weights)

    @tf.function(autograph=False)
    def step():
        optimizer.apply([tf.constant(one) for one in values(1)], weights)

    kinds = [each.type for each in step.get_concrete_function().graph.get_operations()]
    # Keras' own formula takes the steps of AMSGrad.
    assert kinds.count("ResourceApplyAdam") == (0 if amsgrad else 3)
    assert kinds.count("Sqrt") == (6 if amsgrad else 0)


def test_other_optimizers_are_left_as_they_are():
    assert with_one_op(keras.optimizers.SGD) is keras.optimizers.SGD
