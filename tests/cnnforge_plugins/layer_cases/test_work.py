"""The work of the layers, counted by hand."""

import keras

from cnnforge.plugin import Work
from cnnforge_plugins.layer_cases import (
    batch_normalization,
    conv2d,
    conv_block2d,
    dense,
    depthwise_conv2d,
    dropout,
    global_average_pooling2d,
    pooling,
)
from cnnforge_plugins.layers.conv_block2d import ConvBlock2D

layers = keras.layers


def count(function, layer, shape, grad_inputs=True):
    layer.build(shape)
    return function(layer, shape, grad_inputs)


def test_convolution():
    layer, shape = layers.Conv2D(8, 5, strides=2, padding="same"), (2, 9, 7, 3)
    found = count(conv2d.work, layer, shape)
    flops = 2 * (2 * 5 * 4) * 8 * 5 * 5 * 3
    inputs, weights, outputs = 2 * 9 * 7 * 3, 5 * 5 * 3 * 8 + 8, 2 * 5 * 4 * 8
    assert found["forward"] == Work(flops, 4 * (inputs + weights + outputs))
    assert found["backward"] == Work(2 * flops, 4 * (2 * inputs + 2 * weights + outputs))
    first = conv2d.work(layer, shape, grad_inputs=False)
    assert first["backward"] == Work(flops, 4 * (inputs + weights + outputs))


def test_groups_and_depthwise_convolutions():
    grouped = count(conv2d.work, layers.Conv2D(6, 3, groups=3, padding="same"), (1, 4, 4, 9))
    assert grouped["forward"].flops == 2 * 16 * 6 * 9 * 3
    layer = layers.DepthwiseConv2D(3, depth_multiplier=2)
    assert count(depthwise_conv2d.work, layer, (1, 4, 4, 9))["forward"].flops == 2 * 4 * 18 * 9


def test_channels_first():
    last = count(conv2d.work, layers.Conv2D(6, 3), (1, 5, 4, 9))
    layer = layers.Conv2D(6, 3, data_format="channels_first")
    assert count(conv2d.work, layer, (1, 9, 5, 4)) == last


def test_block():
    found = count(conv_block2d.work, ConvBlock2D(4, 3, padding="same"), (1, 8, 8, 2))
    flops = 2 * 64 * 4 * 18
    inputs, weights, outputs = 128, 4 * 18 + 4, 64
    assert found["forward"] == Work(flops + 64 * 4, 4 * (inputs + weights + outputs))
    moved = 4 * (outputs + 2 * inputs + 2 * weights) + outputs
    assert found["backward"] == Work(2 * flops // 4, moved)


def test_dense():
    found = count(dense.work, layers.Dense(5), (2, 3, 4))
    inputs, weights, outputs = 24, 4 * 5 + 5, 30
    assert found["forward"] == Work(2 * 24 * 5, 4 * (inputs + weights + outputs))
    assert found["backward"] == Work(4 * 24 * 5, 4 * (2 * inputs + 2 * weights + outputs))
    first = dense.work(layers.Dense(5), (2, 4), grad_inputs=False)
    assert first["backward"].flops == 2 * 8 * 5


def test_pools():
    largest = count(pooling.max_work, layers.MaxPooling2D(3, strides=2), (1, 7, 7, 2))
    assert largest["forward"] == Work(9 * 18, 4 * (98 + 18))
    assert largest["backward"] == Work(18, 4 * (98 + 18) + 18)
    layer = layers.AveragePooling2D(2)
    assert count(pooling.average_work, layer, (1, 4, 4, 2), False)["backward"] == Work(0, 0)
    assert count(pooling.average_work, layer, (1, 4, 4, 2))["backward"] == Work(32, 4 * (32 + 8))
    layer = layers.GlobalAveragePooling2D()
    found = count(global_average_pooling2d.work, layer, (2, 4, 4, 3))
    assert found["forward"] == Work(96, 4 * (96 + 6))


def test_dropout():
    found = count(dropout.work, layers.Dropout(0.5), (2, 3))
    assert found["forward"] == Work(0, 0)
    assert found["backward"] == Work(4 * 6, 2 * 9 * 6)


def test_batch_normalization():
    """A training step reads or writes four tensors, and the inputs twice."""
    found = count(batch_normalization.work, layers.BatchNormalization(), (2, 4, 4, 3))
    assert found["forward"] == Work(2 * 96, 4 * (2 * 96 + 4 * 3))
    full = found["forward"] + found["backward"]
    assert full == Work(14 * 96, 4 * (5 * 96 + 4 * 3 + 2 * 3 + 4 * 3))
    layer = layers.BatchNormalization(scale=False)
    first = count(batch_normalization.work, layer, (2, 4, 4, 3), False)
    full = first["forward"] + first["backward"]
    assert full == Work(10 * 96, 4 * (4 * 96 + 3 * 3 + 2 * 3 + 2 * 3))
