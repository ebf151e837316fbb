"""The networks of keras.applications, with their preprocessing inside the model."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cnnforge.errors import UsageError
from cnnforge_plugins.models import keras_applications
from cnnforge_plugins.models.keras_applications import assign, build

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)


def outputs(model: Any, pixels: np.ndarray = PIXELS) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(pixels))


# Each scales pixels in another way: to -1..1, by the mean with reversed channels, by the mean and
# the deviation, and in layers of its own.
@pytest.mark.parametrize("name", ["MobileNet", "VGG16", "DenseNet121", "MobileNetV3Small"])
def test_the_preprocessing_is_in_the_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = getattr(keras.applications, name)
    source = make(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")

    def downloaded(**options: Any) -> keras.Model:
        if options.pop("weights") is None:
            return make(weights=None, **options)
        assert options == {"include_top": False, "input_shape": (32, 32, 3)}
        return source

    downloaded.__name__, downloaded.__module__ = make.__name__, make.__module__
    monkeypatch.setattr(keras.applications, name, downloaded)
    model = build((32, 32, 3), 5, name)
    assign(model, name)
    features = keras.Model(model.input, model.get_layer("head_dropout").input)
    preprocess = getattr(keras.applications, make.__module__.rpartition(".")[2]).preprocess_input
    np.testing.assert_allclose(
        outputs(features), outputs(source, preprocess(PIXELS.copy())), rtol=1e-4, atol=1e-5
    )
    model.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(outputs(model), outputs(loaded))


def test_the_deviations_of_efficientnet_are_used_once() -> None:
    """With ImageNet weights, Keras adds a layer that divides by the root of the deviation again."""
    make = keras.applications.EfficientNetB0
    source = make(include_top=False, weights=None, input_shape=(32, 32, 3))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    stored = next(x for x in source.layers if isinstance(x, keras.layers.Normalization))
    # The file of Keras has the deviations as variances.
    stored.set_weights([mean, deviation, np.array(1)])
    model = build((32, 32, 3), 5, "EfficientNetB0")
    keras_applications.copy_weights(source, model, make)
    normalization = next(x for x in model.layers if isinstance(x, keras.layers.Normalization))
    normalized = outputs(keras.Model(model.input, normalization.output))
    np.testing.assert_allclose(normalized, (PIXELS / 255 - mean) / deviation, rtol=1e-4, atol=1e-5)


def test_gray_images_are_repeated() -> None:
    gray, color = build((32, 32, 1), 5, "MobileNet"), build((32, 32, 3), 5, "MobileNet")
    gray.set_weights(color.get_weights())
    pixels = PIXELS[..., :1]
    np.testing.assert_allclose(
        outputs(gray, pixels), outputs(color, np.repeat(pixels, 3, -1)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (None, "write the name of a network too, such as keras:MobileNetV2"),
        ("mobilenetv2", "has no network 'mobilenetv2'; did you mean keras:MobileNetV2?"),
        ("layers", "has no network 'layers'; there are ConvNeXtBase, "),
        ("", "has no network ''; there are "),
    ],
)
def test_an_unknown_network_is_told(argument: str | None, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        build((32, 32, 3), 5, argument)
    assert message in str(caught.value)


def test_without_a_network_the_alternative_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    make = keras.applications.MobileNet

    def offline(**options: Any) -> keras.Model:
        if options["weights"] == "imagenet":
            raise Exception("URL fetch failure on https://storage: None -- [Errno -3]")
        return make(**options)

    offline.__name__, offline.__module__ = make.__name__, make.__module__
    monkeypatch.setattr(keras.applications, "MobileNet", offline)
    model = build((32, 32, 3), 5, "MobileNet")
    with pytest.raises(UsageError, match=r"cannot be downloaded \(URL fetch.*cnnforge\[lite0\]"):
        assign(model, "MobileNet")
