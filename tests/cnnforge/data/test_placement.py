"""Images are placed in the model's image."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnnforge.data import DataOptions, ImageFiles, fit, letterbox, read_image
from cnnforge.data.images import read_into
from cnnforge.errors import UsageError

SIZES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))


@given(SIZES, SIZES)
def test_a_letterboxed_image_fills_one_axis_and_is_centred(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    placed = letterbox(size, shape)
    assert placed.width == shape[1] or placed.height == shape[0]
    assert 1 <= placed.width <= shape[1]
    assert 1 <= placed.height <= shape[0]
    for border, side, full in (
        (placed.left, placed.width, shape[1]),
        (placed.top, placed.height, shape[0]),
    ):
        assert border in ((full - side) // 2, (full - side + 1) // 2)
    # The aspect ratio is kept, to half a pixel.
    ratio = min(shape[0] / size[0], shape[1] / size[1])
    assert abs(placed.width - size[1] * ratio) <= 0.5 + 1e-9 or placed.width == 1
    assert abs(placed.height - size[0] * ratio) <= 0.5 + 1e-9 or placed.height == 1
    whole = np.array([[0, 0, size[1], size[0]]])
    expected = [placed.left, placed.top, placed.left + placed.width, placed.top + placed.height]
    np.testing.assert_allclose(placed.to_model(whole)[0], expected, atol=1e-9 * max(shape))


@given(SIZES, SIZES)
def test_boxes_come_back(size: tuple[int, int], shape: tuple[int, int]) -> None:
    placed = letterbox(size, shape)
    boxes = np.random.default_rng(0).uniform(0, 1, (5, 4)) * ([size[1], size[0]] * 2)
    np.testing.assert_allclose(placed.to_original(placed.to_model(boxes)), boxes, rtol=1e-9)
    assert placed.to_model(np.zeros((0, 4))).shape == (0, 4)


def test_an_image_of_the_same_size_stays() -> None:
    assert letterbox((24, 32), (24, 32)) == (1.0, 1.0, 0, 0, 32, 24)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_are_letterboxed_with_a_gray_border(
    tmp_path: Path, ending: str, channels: int
) -> None:
    path = str(tmp_path / f"x.{ending}")
    Image.new("L" if channels == 1 else "RGB", (40, 10), 250 if channels == 1 else (250,) * 3).save(
        path
    )
    image = read_image(path, (20, 24, channels), "letterbox")
    # 40 x 10 becomes 24 x 6, and 7 rows are above and below it.
    assert (image[:7] == 114).all()
    assert (image[13:] == 114).all()
    assert (image[7:13] > 245).all()
    assert (read_image(path, (20, 24, channels)) > 245).all()
    files = ImageFiles([path], np.zeros(1), (20, 24, channels), placing="letterbox")
    np.testing.assert_array_equal(files.fetch(np.arange(1))[0], image)
    np.testing.assert_array_equal(fit(Image.open(path), (20, 24, channels), "letterbox"), image)


@pytest.mark.parametrize("placing", ["stretch", "letterbox"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("ending", "size"), [("jpg", (36, 24)), ("jpg", (1003, 601)), ("png", (60, 44))]
)
def test_the_size_is_that_of_the_upright_original(
    tmp_path: Path, placing: str, orientation: int, ending: str, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / f"x.{ending}")
    Image.new("RGB", size).save(path, exif=exif)
    pixels = np.empty((24, 36, 3), np.uint8)
    upright = size if orientation == 1 else size[::-1]
    assert read_into(path, pixels, placing) == (upright[1], upright[0])


def test_a_large_jpeg_lies_where_its_full_size_says(tmp_path: Path) -> None:
    """The decoder reduces a large JPEG, and rounds its size up."""
    path = str(tmp_path / "x.jpg")
    image = np.full((1001, 3001, 3), 255, np.uint8)
    image[:, :1500] = 0
    Image.fromarray(image).save(path, quality=95)
    read = read_image(path, (64, 64, 1), "letterbox")[:, :, 0]
    placed = letterbox((1001, 3001), (64, 64))
    inside = (read != 114).any(axis=1)
    assert np.flatnonzero(inside)[[0, -1]].tolist() == [placed.top, placed.top + placed.height - 1]


def test_a_wrong_placing_is_named() -> None:
    with pytest.raises(UsageError, match="placing is 'crop': use one of stretch, letterbox"):
        DataOptions(placing="crop")
