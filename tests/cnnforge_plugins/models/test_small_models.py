"""The models for small images that are trained from random weights."""

import keras
import numpy as np
import pytest

from cnnforge_plugins.models import mobilenet_small, resnet, vgg11


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("depth", "weights"), [("resnet32", 0.46e6), ("resnet56", 0.85e6), ("resnet110", 1.7e6)]
)
def test_a_deeper_residual_network_is_the_papers(depth: str, weights: float) -> None:
    """He et al. (2015), table 6."""
    model = getattr(resnet, depth)((32, 32, 3), 10)
    assert model.name == depth
    assert trainable(model) == pytest.approx(weights, rel=0.02)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) + 1 == int(depth.removeprefix("resnet"))


def test_vgg11_has_the_convolutions_of_the_paper() -> None:
    model = vgg11.build((32, 32, 3), 10)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert len(convolutions) == 8
    assert model.get_layer("pool5").output.shape[1:] == (1, 1, 512)


def test_mobilenet_small_is_small() -> None:
    assert trainable(mobilenet_small.build((32, 32, 3), 10)) < 100_000


@pytest.mark.parametrize(
    ("build", "size"), [(resnet.resnet32, 8), (vgg11.build, 32), (mobilenet_small.build, 8)]
)
def test_the_smallest_images_are_accepted_and_smaller_ones_are_told(build, size) -> None:
    model = build((size, size + 5, 1), 3)
    pixels = np.full((2, size, size + 5, 1), 255, np.float32)
    outputs = keras.ops.convert_to_numpy(model(pixels))
    np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match=f"needs images of at least {size} x {size} pixels"):
        build((size, size - 1, 1), 3)
