"""Similar training pictures, and what a value sees of the picture."""

import keras
import numpy as np
import pytest

from cnnforge.explaining.network import describe
from cnnforge.explaining.steps import Replay, divide, gradients, run
from cnnforge.explaining.sure import feature_step, nearest, number_of_pictures, receptive_fields
from cnnforge_plugins.models.lenet import build as lenet

RANDOM = np.random.default_rng(6)
layers = keras.layers


class Pictures:
    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


def test_the_nearest_pictures_equal_those_of_a_loop() -> None:
    model = lenet((28, 28, 1), 10)
    features = keras.Model(model.inputs[0], model.get_layer("dropout3").output)
    images = RANDOM.integers(0, 256, (40, 28, 28, 1), np.uint8)
    own = images[17]
    values = np.asarray(features(images.astype(np.float32), training=False))
    steps = divide(model)
    np.testing.assert_allclose(
        run(Replay(steps, output=feature_step(steps)), images), values, atol=1e-4
    )
    angles = values @ values[17] / np.linalg.norm(values, axis=1) / np.linalg.norm(values[17])
    chosen = np.arange(3, 40)
    found = nearest(steps, own, Pictures(images), chosen, count=4)
    want = [int(at) for at in np.argsort(-angles) if at >= 3][:4]
    assert [each.index for each in found] == want
    assert found[0].index == 17
    assert [each.same for each in found] == [True, False, False, False]
    assert found[1].similarity == pytest.approx(angles[want[1]], abs=1e-5)


def test_fewer_pictures_for_a_large_network() -> None:
    assert number_of_pictures(4000, 600_000) == 4000
    assert number_of_pictures(90_000, 600_000) == 5000
    assert number_of_pictures(90_000, 40_000_000) == 1000
    assert number_of_pictures(90_000, 4_000_000_000) == 100
    assert number_of_pictures(20, 4_000_000_000) == 20


@pytest.mark.parametrize("upsampling", [1, 2])
def test_receptive_fields_are_those_of_the_gradients(upsampling: int) -> None:
    inputs = keras.Input((40, 40, 1))
    x = layers.Conv2D(2, 3, padding="same")(inputs)
    y = layers.Conv2D(2, 5, strides=2, padding="same")(x)
    z = layers.AveragePooling2D(2)(x)
    x = layers.Add()([y, z])
    x = layers.UpSampling2D(upsampling)(x)
    x = layers.ZeroPadding2D(((2, 1), (0, 1)))(x)
    x = layers.Cropping2D(((1, 0), (0, 1)))(x)
    x = layers.Conv2D(1, 3, dilation_rate=2)(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    model.set_weights([np.abs(each) + 0.1 for each in model.get_weights()])
    steps = divide(model)
    network = describe(steps)
    fields = receptive_fields(network)
    at = network.places("conv")[-1]
    pair = fields[at]
    assert pair is not None
    assert fields[-1] is None
    rows, columns, _ = network.operations[at].shape
    flat = [*steps[: network.operations[at].step + 1]]
    image = RANDOM.uniform(1, 2, (1, 40, 40, 1)).astype(np.float32)

    class Flat(Replay):
        def call(self, inputs):
            return keras.ops.reshape(super().call(inputs), (1, -1))

    for row, column in ((0, 0), (7, 5), (rows - 1, columns - 1)):
        _, ((seen,),) = gradients(Flat(flat), image, [row * columns + column])
        marked = np.argwhere(seen[0, :, :, 0] != 0)
        for axis, place in enumerate((row, column)):
            start = pair[axis].start + pair[axis].step * place
            ends = max(0, start), min(40, start + pair[axis].size)
            found = marked[:, axis].min(), marked[:, axis].max() + 1
            # The field of repeated values contains those of all copies.
            assert found == ends if upsampling == 1 else ends[0] <= found[0] < found[1] <= ends[1]
