"""The detectors: their maps, their layers, and the weights that they share."""

from functools import partial

import keras
import numpy as np
import pytest

from cnnforge.conversion import forge
from cnnforge.tasks.detection import Detection
from cnnforge_kernels.plan import Plan, optimize
from cnnforge_plugins.inference.builder import express
from cnnforge_plugins.models import detector, lite0_weights
from cnnforge_plugins.models.efficientnet_lite0 import build as lite0

LITE0 = partial(detector.detector, argument="efficientnet_lite0")
BUILDS = {
    "detector": detector.detector,
    "detector:efficientnet_lite0": LITE0,
    "detector_m": detector.detector_m,
    "detector_backbone": detector.backbone,
}
TO_FORGE = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.BatchNormalization,
    keras.layers.MaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Dropout,
)


def maps(model: keras.Model) -> list[tuple[int, ...]]:
    shapes = model.output_shape
    return [shape[1:] for shape in (shapes if isinstance(shapes, list) else [shapes])]


def randomized(model: keras.Model) -> keras.Model:
    """Return the model with statistics and offsets as if trained, else folding is hardly tested."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("bias", "beta", "moving_mean"):
            weight.assign(random.normal(0, 0.1, weight.shape))
        elif kind in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.8, 1.3, weight.shape))
    return model


@pytest.mark.parametrize("channels", [1, 3])
def test_the_detector_is_small_and_has_one_map(channels: int) -> None:
    model = detector.detector((128, 128, channels), 10)
    assert maps(model) == [(32, 32, 14)]
    assert model.count_params() < 300_000


def test_detector_m_has_three_maps() -> None:
    model = detector.detector_m((320, 256, 3), 2)
    assert maps(model) == [(80, 64, 6), (40, 32, 6), (20, 16, 6)]


@pytest.mark.parametrize("size", [(16, 16), (17, 28), (33, 70), (100, 75)])
def test_any_size_has_its_maps(size: tuple[int, int]) -> None:
    for build in (detector.detector, LITE0, detector.detector_m):
        model = build((*size, 1), 1)
        Detection(["a"], size).check_model(model)
        expected = [tuple(-(-side // stride) for side in size) for stride in (4, 8, 16)]
        shapes = [shape[:2] for shape in maps(model)]
        assert shapes == expected[: len(shapes)]
        outputs = model.predict(np.full((2, *size, 1), 255, np.uint8), verbose=0)
        assert all(np.isfinite(part).all() for part in keras.tree.flatten(outputs))


@pytest.mark.parametrize("build", [detector.detector, detector.detector_m])
def test_the_padding_is_at_the_right_and_the_bottom(build) -> None:
    """A cell of a map belongs to the same pixels, whatever is padded."""
    small = randomized(build((40, 52, 1), 2))
    whole = build((48, 64, 1), 2)
    whole.set_weights(small.get_weights())
    images = np.random.default_rng(2).integers(0, 256, (2, 40, 52, 1)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (0, 8), (0, 12), (0, 0)))
    found, expected = (
        keras.tree.flatten(model.predict(inputs, verbose=0))
        for model, inputs in ((small, images), (whole, padded))
    )
    for part, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, want[:, : part.shape[1], : part.shape[2]], atol=1e-5)


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="detector needs images of at least 16 x 16"):
        detector.detector((16, 15, 1), 3)
    with pytest.raises(ValueError, match="detector_m needs images of at least 16 x 16"):
        detector.detector_m((15, 40, 1), 3)
    with pytest.raises(ValueError, match="detector needs at least 1 class, got 0"):
        detector.detector((32, 32, 1), 0)
    with pytest.raises(ValueError, match="no backbone 'vgg': write detector or detector:eff"):
        detector.detector((32, 32, 1), 3, "vgg")


@pytest.mark.parametrize("name", BUILDS)
def test_every_convolution_normalization_and_pooling_is_forged(name: str) -> None:
    model = BUILDS[name]((48, 64, 3), 3)
    stock = {type(layer) for layer in model.layers}
    assert all(kind.__module__.startswith("keras.") for kind in stock)
    left = [layer.name for layer in forge(model, "numba").layers if type(layer) in TO_FORGE]
    assert left == []


@pytest.mark.parametrize("shape", [(64, 64, 1), (50, 75, 3)])
@pytest.mark.parametrize("name", BUILDS)
def test_the_plan_computes_what_keras_computes(name: str, shape: tuple[int, int, int]) -> None:
    keras.utils.set_random_seed(0)
    model = randomized(BUILDS[name](shape, 4))
    images = np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.uint8)
    expected = model.predict(images, verbose=0)
    outputs = Plan(optimize(express(model))).predict(images)
    keras.tree.assert_same_structure(outputs, expected)
    for ours, theirs in zip(keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True):
        scale = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("build", [detector.detector, detector.detector_m])
def test_the_backbone_has_the_layers_of_the_detectors(build) -> None:
    others = {layer.name: layer for layer in detector.backbone((32, 32, 1), 10).layers}
    model = build((64, 64, 1), 3)
    shared = [layer for layer in model.layers if layer.weights and layer.name in others]
    assert len(shared) == (14 if build is detector.detector else 18)
    for layer in shared:
        shapes = [weight.shape for weight in others[layer.name].weights]
        assert [weight.shape for weight in layer.weights] == shapes


@pytest.mark.skipif(lite0_weights.find() is None, reason="the ImageNet weights are not installed")
def test_the_imagenet_weights_are_those_of_the_classification() -> None:
    whole, model = lite0((32, 32, 3), 7), LITE0((64, 64, 1), 3)
    before = model.get_layer("neck16_fine_conv").get_weights()[0]
    for each in (whole, model):
        lite0_weights.assign(each, "efficientnet_lite0")
    for layer in model.layers:
        if layer.name.startswith(("stem", "block")):
            for ours, theirs in zip(
                layer.weights, whole.get_layer(layer.name).weights, strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(before, model.get_layer("neck16_fine_conv").get_weights()[0])
