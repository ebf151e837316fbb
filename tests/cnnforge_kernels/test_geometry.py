"""Output sizes and padding agree with Keras, for every small combination."""

import itertools

import keras
from keras.ops import conv

from cnnforge_kernels.geometry import output_size, padding_before


def test_output_sizes_are_those_of_keras():
    for size, window, stride, dilation in itertools.product(
        (1, 2, 5, 8, 13), (1, 2, 3, 5), (1, 2, 3), (1, 2)
    ):
        if stride > 1 and dilation > 1:
            continue
        for same in (True, False):
            if not same and size < (window - 1) * dilation + 1:
                assert output_size(size, window, stride, dilation, same) == 0
                continue
            spec = conv(
                keras.KerasTensor((1, size, size, 1)),
                keras.KerasTensor((window, window, 1, 1)),
                strides=stride,
                padding="same" if same else "valid",
                dilation_rate=dilation,
            )
            assert output_size(size, window, stride, dilation, same) == spec.shape[1]


def test_the_odd_remainder_of_same_padding_goes_to_the_end():
    assert padding_before(28, 5, 1, 1, True) == 2
    assert padding_before(28, 2, 1, 1, True) == 0
    assert padding_before(28, 4, 1, 1, True) == 1
    assert padding_before(7, 3, 2, 1, True) == 1
    assert padding_before(8, 3, 2, 1, True) == 0
    assert padding_before(8, 3, 2, 1, False) == 0
