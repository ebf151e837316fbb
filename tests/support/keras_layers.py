"""Helpers of the tests that compare a layer with Keras' own."""

import numpy as np
import tensorflow as tf


def values(*shape, seed=0):
    """Normally distributed float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def outputs_and_gradients(layer, inputs, *, graph):
    """Outputs, the gradient of the inputs, and those of the weights."""
    inputs = tf.constant(inputs, layer.dtype)

    def run(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs)
            factors = tf.cast(values(*outputs.shape, seed=9), outputs.dtype)
            loss = tf.reduce_sum(outputs * factors)
        return outputs, *tape.gradient(loss, [inputs, *layer.trainable_variables])

    run = tf.function(run, autograph=False) if graph else run
    return [np.asarray(result) for result in run(inputs)]
