"""The launchers of depthwise convolution, global pooling and conv_block name what is wrong."""

import numpy as np
import pytest

import cnnforge_kernels as kernels

X, W, D = (np.ones(shape, np.float32) for shape in ((1, 6, 6, 2), (3, 3, 2, 4), (3, 3, 2, 2)))
Y, P = np.ones((1, 4, 4, 4), np.float32), np.ones((1, 2, 2, 4), np.float32)
ARGMAX = np.zeros((1, 2, 2, 4), np.uint8)
MISTAKES = {
    "rank": (lambda: kernels.depthwise_conv2d(X[0], D), "`inputs` must be"),
    "dtype": (lambda: kernels.depthwise_conv2d(X, D.astype("d")), "`weights` must be .*float64"),
    "channels": (lambda: kernels.depthwise_conv2d(X, D[:, :, :1]), r"`weights` must have shape"),
    "window": (lambda: kernels.depthwise_conv2d(X, D[:0]), r"`weights` must have shape"),
    "bias": (lambda: kernels.depthwise_conv2d(X, D, X[0, 0, 0]), "`bias` must have 4 values"),
    "activation": (lambda: kernels.depthwise_conv2d(X, D, activation="tanh"), "`activation`"),
    "stride": (lambda: kernels.depthwise_conv2d(X, D, strides=0), "`strides` must be"),
    "padding": (lambda: kernels.depthwise_conv2d(X, D, padding="full"), '"valid" or "same"'),
    "out": (lambda: kernels.depthwise_conv2d(X, D, out=X), "`out` must be"),
    "gradient": (
        lambda: kernels.depthwise_conv2d_grad_inputs(P, D, X.shape),
        r"`grad_outputs` must have shape \(1, 4, 4, 4\)",
    ),
    "outputs": (
        lambda: kernels.depthwise_conv2d_grad_weights(X, Y, D.shape, outputs=P),
        r"`outputs` must have shape \(1, 4, 4, 4\)",
    ),
    "global rank": (lambda: kernels.global_average_pool2d(X[0]), "`inputs` must be"),
    "global out": (lambda: kernels.global_average_pool2d(X, out=X), "`out` must be"),
    "global gradient": (
        lambda: kernels.global_average_pool2d_grad(X[0, 0], X.shape),
        r"`grad_outputs` must have shape \(1, 2\)",
    ),
    "pool": (lambda: kernels.conv_block(X, W, pool_size=0), "`pool_size` must be"),
    "large pool": (lambda: kernels.conv_block(X, W, pool_size=(2, 16)), "at most 15"),
    "groups": (lambda: kernels.conv_block(X, W, groups=3), "`groups` must divide"),
    "block bias": (lambda: kernels.conv_block(X, W, X[0, 0, 0]), "`bias` must have 4 values"),
    "block out": (lambda: kernels.conv_block(X, W, out=Y), "`out` must be"),
    "argmax": (
        lambda: kernels.conv_block_grad_inputs(P, ARGMAX.astype("i"), W, X.shape),
        r"uint8.* must have shape \(1, 2, 2, 4\)",
    ),
    "no cell": (
        lambda: kernels.conv_block_grad_inputs(P, ARGMAX + np.uint8(4), W, X.shape),
        "cells of a window of 2 x 2, from 0 to 3.* Received: 4",
    ),
    "no cell, no winner": (
        lambda: kernels.conv_block_grad_weights(X, P, ARGMAX + np.uint8(254), W.shape),
        "Received: 254",
    ),
    **{
        f"{name} shape": (call, rf"`{kind}_shape` must be a shape: four integers.*{received}")
        for name, kind, received, call in (
            (
                *("depthwise input", "input", "Received: 6"),
                lambda: kernels.depthwise_conv2d_grad_inputs(Y, D, 6),
            ),
            (
                *("depthwise weights", "weights", r"\(3, 3\)"),
                lambda: kernels.depthwise_conv2d_grad_weights(X, Y, (3, 3)),
            ),
            (
                *("block input", "input", r"\(1, 6, 6, -2\)"),
                lambda: kernels.conv_block_grad_inputs(P, ARGMAX, W, (1, 6, 6, -2)),
            ),
            (
                *("block weights", "weights", "None"),
                lambda: kernels.conv_block_grad_weights(X, P, ARGMAX, None),
            ),
            (
                *("global", "input", r"\(1, 2\)"),
                lambda: kernels.global_average_pool2d_grad(X[0, 0, :1], (1, 2)),
            ),
        )
    },
    "block gradient": (
        lambda: kernels.conv_block_grad_weights(X, Y, ARGMAX, W.shape),
        r"must have shape \(1, 2, 2, 4\)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_error_names_the_argument(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_given_output():
    for call, shape in (
        (lambda out: kernels.depthwise_conv2d(X, D, out=out), (1, 4, 4, 4)),
        (lambda out: kernels.conv_block(X, W, out=out)[0], (1, 2, 2, 4)),
        (lambda out: kernels.global_average_pool2d(X, out=out), (1, 2)),
    ):
        out = np.full(shape, np.nan, np.float32)
        assert call(out) is out
        assert np.isfinite(out).all()
