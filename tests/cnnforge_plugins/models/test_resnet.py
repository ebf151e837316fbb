import keras
import numpy as np
import pytest

from cnnforge_plugins.models.resnet import resnet20 as build


@pytest.fixture(scope="module")
def model():
    return build((32, 32, 3), 10)


def test_it_is_the_papers_network(model):
    """He et al. (2015), table 6: 20 layers and 0.27 million weights."""
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == 269_722
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 19
    assert all(layer.kernel_size == (3, 3) and not layer.use_bias for layer in convolutions)
    assert [layer.strides[0] for layer in convolutions].count(2) == 2
    for stage, shape in enumerate([(32, 32, 16), (16, 16, 32), (8, 8, 64)], 1):
        for block in (1, 2, 3):
            assert model.get_layer(f"stage{stage}_block{block}_add").output.shape[1:] == shape


def test_the_shortcut_is_every_second_pixel_and_zeros(model):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    tap = keras.Model(
        model.input,
        [
            model.get_layer("stage1_block3_2_relu").output,
            model.get_layer("stage2_block1_zeros").output,
        ],
    )
    before, after = (keras.ops.convert_to_numpy(value) for value in tap(pixels))
    expected = np.zeros((2, 16, 16, 32), np.float32)
    expected[:, :, :, 8:24] = before[:, ::2, ::2, :]
    np.testing.assert_array_equal(after, expected)
    assert before.max() > 0


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (31, 45, 3)])
def test_raw_pixels_become_probabilities(shape):
    model = build(shape, 5)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.uint8)
    outputs = keras.ops.convert_to_numpy(model(pixels))
    assert outputs.shape == (2, 5)
    np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-5)


def test_it_survives_saving(model, tmp_path):
    model.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    before, after = (keras.ops.convert_to_numpy(each(pixels)) for each in (model, loaded))
    np.testing.assert_array_equal(before, after)


def test_what_is_too_small_is_told():
    with pytest.raises(ValueError, match="needs images of at least 8 x 8 pixels, got 28 x 7"):
        build((28, 7, 1), 10)
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        build((28, 28, 1), 1)
