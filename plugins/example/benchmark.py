"""Measure the two layers against other implementations, inside `tf.function`.

The separable block is compared with the stock pair `DepthwiseConv2D`, `Conv2D` 1x1. The Gabor layer
is compared with the same formula in TensorFlow's ops, and in NumPy behind `tf.numpy_function`.

Run `python benchmark.py`. Two models are called alternately. The table has the medians over many
calls, and the ratio of the times of neighbouring calls: its median, and its 20th and 80th
percentile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from cnnforge_example.cases import gabor_oracle
from cnnforge_example.gabor import GaborConv2D
from cnnforge_example.separable import SeparableBlock2D

# Batch, height, width, channels, filters: layers of MobileNet at 224 and at 64 pixels.
SHAPES = [(8, 112, 112, 32, 64), (32, 32, 32, 32, 64), (32, 16, 16, 64, 128), (32, 8, 8, 256, 256)]
ROUNDS = 100


def pair(channels: int, filters: int) -> tuple[keras.Model, keras.Model]:
    """Return models of the block and of the stock pair, with the same weights."""
    inputs = keras.Input((None, None, channels))
    block = keras.Model(inputs, SeparableBlock2D(filters)(inputs))
    layers = keras.layers
    middle = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(inputs)
    stock = keras.Model(inputs, layers.Conv2D(filters, 1, activation="relu")(middle))
    depthwise, pointwise, bias = block.get_weights()
    stock.set_weights([depthwise, pointwise[np.newaxis, np.newaxis], bias])
    return block, stock


class TensorFlowGabor(GaborConv2D):
    """The layer in TensorFlow's ops, which have gradients."""

    def call(self, inputs: Any) -> Any:
        """Make the bank, op by op, and convolve."""
        half = self.kernel_size // 2
        y, x = (
            tf.constant(place[..., np.newaxis], tf.float32)
            for place in np.mgrid[-half : half + 1, -half : half + 1]
        )
        along = x * tf.cos(self.orientation) + y * tf.sin(self.orientation)
        wave = tf.cos(2 * np.pi * self.frequency * along + self.phase)
        bell = tf.exp(-(x**2 + y**2) / (2 * tf.exp(2 * self.log_width)))
        bank = self.amplitude * (bell * wave)[:, :, tf.newaxis]
        return tf.nn.conv2d(inputs, bank, 1, "SAME")


class NumPyGabor(GaborConv2D):
    """The layer in NumPy, as an author may write it first: the formula, without a gradient."""

    def call(self, inputs: Any) -> Any:
        """Call back into Python."""
        weights = [weight.value for weight in self.weights]

        def compute(*arrays: np.ndarray) -> np.ndarray:
            return gabor_oracle(self, *arrays).astype(np.float32)

        return tf.ensure_shape(
            tf.numpy_function(compute, [inputs, *weights], tf.float32),
            (*inputs.shape[:-1], self.filters),
        )


def gabors(shape: list[int], filters: int) -> list[keras.Model]:
    """Return models of one Gabor layer with the same weights: ours, TensorFlow, NumPy."""
    inputs = keras.Input(batch_shape=shape)
    kinds = (GaborConv2D, TensorFlowGabor, NumPyGabor)
    models = [keras.Model(inputs, kind(filters)(inputs)) for kind in kinds]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    return models


def forward(model: keras.Model) -> Callable[[tf.Tensor], Any]:
    """Return a graph of the outputs that returns one value of them, so that nothing is copied."""
    return tf.function(lambda inputs: model(inputs)[0, 0, 0, :1], autograph=False)


def full(model: keras.Model) -> Callable[[tf.Tensor], Any]:
    """Return a graph of the outputs and all gradients."""

    def run(inputs: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = model(inputs)
        # The gradient of the outputs is ones, so that only the layer is measured.
        gradients = tape.gradient(outputs, [inputs, *model.trainable_variables])
        return tf.add_n([tf.reshape(gradient, [-1])[:1] for gradient in gradients])

    return tf.function(run, autograph=False)


def compare(ours: Callable, theirs: Callable, inputs: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds of each call of two functions that are called alternately."""
    seconds = np.empty((2, ROUNDS))
    for turn in range(-10, ROUNDS):
        for index, call in enumerate((ours, theirs)):
            begun = time.perf_counter()
            call(inputs).numpy()
            if turn >= 0:
                seconds[index, turn] = time.perf_counter() - begun
    return seconds[0], seconds[1]


def report(name: str, graph: Callable, ours: keras.Model, theirs: keras.Model, inputs: Any) -> None:
    """Print a row of the table."""
    first, second = compare(graph(ours), graph(theirs), inputs)
    here, there, ratio = np.median(first) * 1e3, np.median(second) * 1e3, second / first
    low, high = np.percentile(ratio, [20, 80])
    print(
        f"| {name}, {graph.__name__} | {here:.2f} | {there:.2f} | {np.median(ratio):.2f} "
        f"| {low:.2f}..{high:.2f} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    tf.config.threading.set_intra_op_parallelism_threads(2)
    random = np.random.default_rng(0)
    print("| case | ours ms | other ms | ratio | p20..p80 |\n|---|---|---|---|---|")
    for *shape, filters in SHAPES:
        inputs = tf.constant(random.standard_normal(shape, np.float32))
        block, stock = pair(shape[-1], filters)
        np.testing.assert_allclose(block(inputs), stock(inputs), atol=1e-4)
        sizes = " x ".join(map(str, shape))
        name = f"separable block, {sizes} to {filters}, against the stock pair"
        report(name, forward, block, stock, inputs)
        report(name, full, block, stock, inputs)
    shape = [32, 28, 28, 1]
    inputs = tf.constant(random.standard_normal(shape, np.float32))
    ours, theirs, numpy = gabors(shape, 16)
    for model in (theirs, numpy):
        np.testing.assert_allclose(ours(inputs), model(inputs), atol=1e-4)
    name = f"16 Gabor functions of 7 x 7, {' x '.join(map(str, shape))}"
    report(f"{name}, against TensorFlow's ops", forward, ours, theirs, inputs)
    report(f"{name}, against TensorFlow's ops", full, ours, theirs, inputs)
    report(f"{name}, against `tf.numpy_function`", forward, ours, numpy, inputs)


if __name__ == "__main__":
    main()
