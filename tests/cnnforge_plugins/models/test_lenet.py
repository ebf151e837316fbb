import keras
import numpy as np
import pytest

from cnnforge_plugins.models.lenet import build


def test_the_layers_are_the_courses():
    model = build((28, 28, 1), 10)
    kinds = "Rescaling Conv2D MaxPooling2D Dropout Conv2D MaxPooling2D Dropout Flatten Dense"
    expected = ["InputLayer", *kinds.split(), "Dropout", "Dense"]
    assert [type(layer).__name__ for layer in model.layers] == expected
    assert model.count_params() == 204_906
    get = model.get_layer
    assert get("conv1").output.shape == (None, 28, 28, 8)
    assert get("conv2").output.shape == (None, 14, 14, 16)
    assert get("conv1").kernel.shape == (5, 5, 1, 8)
    assert get("conv2").kernel.shape == (3, 3, 8, 16)
    assert [get(f"dropout{n}").rate for n in (1, 2, 3)] == [0.25, 0.25, 0.5]
    for name in ("conv1", "conv2", "dense"):
        assert get(name).activation is keras.activations.relu


@pytest.mark.parametrize("shape", [(4, 4, 1), (28, 28, 1), (33, 20, 3)])
def test_raw_pixels_become_probabilities(shape):
    model = build(shape, 7)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
    outputs = keras.ops.convert_to_numpy(model(pixels))
    assert outputs.shape == (3, 7)
    np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-5)
    scaled = keras.ops.convert_to_numpy(model.get_layer("rescaling")(pixels))
    np.testing.assert_allclose(scaled, pixels / 255, rtol=1e-6)


def test_what_is_too_small_is_told():
    with pytest.raises(ValueError, match="needs images of at least 4 x 4 pixels, got 3 x 28"):
        build((3, 28, 1), 10)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        build((28, 28, 1), 1)
