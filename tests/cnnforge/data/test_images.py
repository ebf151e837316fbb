import hashlib
import os
import pickle
import re
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from cnnforge.data import flat
from cnnforge.data.formats import pillow_formats
from cnnforge.data.images import (
    UnreadableImage,
    check_image,
    describe_image,
    fit,
    read_image,
)

RAMP = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5
PHOTO = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def saved(path, pixels_or_image, **options):
    image = pixels_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


def png_chunk(kind, content):
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def test_grayscale_and_rgb_come_back_exactly(tmp_path):
    gray = saved(tmp_path / "gray.png", RAMP)
    rgb = saved(tmp_path / "rgb.png", PHOTO)
    np.testing.assert_array_equal(read_image(gray, (6, 8, 1))[:, :, 0], RAMP)
    np.testing.assert_array_equal(read_image(gray, (6, 8, 3)), np.dstack([RAMP] * 3))
    np.testing.assert_array_equal(read_image(rgb, (6, 8, 3)), PHOTO)
    luma = read_image(rgb, (6, 8, 1))[:, :, 0]
    np.testing.assert_allclose(luma, PHOTO @ [0.299, 0.587, 0.114], atol=0.51)
    assert luma.dtype == np.uint8


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tiff", "webp", "pgm"])
def test_formats_without_loss(tmp_path, suffix):
    path = saved(tmp_path / f"x.{suffix}", RAMP, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(read_image(path, (6, 8, 1))[:, :, 0], RAMP)
    assert check_image(path).size == describe_image(path).size == (6, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
def test_the_cameras_orientation_is_applied(tmp_path, orientation, suffix):
    shown = np.zeros((24, 16), np.uint8)
    shown[:8, :8] = 255
    shown[16:, 8:] = 128
    # What has to be stored so that a viewer shows `shown`.
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif.tobytes(), **({"quality": 100} if suffix == "jpg" else {})}
    path = saved(tmp_path / f"x.{suffix}", np.ascontiguousarray(stored), **options)
    pixels = read_image(path, (24, 16, 1))[:, :, 0].astype(int)
    np.testing.assert_allclose(pixels, shown, atol=3)
    assert check_image(path).size == (24, 16)
    assert describe_image(path).size == (24, 16)


@pytest.mark.parametrize("at_once", [1, 17, 1000])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(flat, "_AT_ONCE", at_once)
    wide = (np.arange(48, dtype=np.uint16) * 1394).reshape(6, 8)
    for name in ("x.png", "x.tiff"):
        path = saved(tmp_path / name, wide)
        pixels = read_image(path, (6, 8, 1))[:, :, 0]
        np.testing.assert_array_equal(pixels, np.floor(wide * (255 / 65535) + 0.5))
        assert check_image(path).grayscale
    path = tmp_path / "x.pgm"
    path.write_bytes(b"P5 8 6 65535\n" + wide.astype(">u2").tobytes())
    pixels = read_image(path, (6, 8, 1))[:, :, 0]
    np.testing.assert_array_equal(pixels, np.floor(wide * (255 / 65535) + 0.5))


def test_what_is_transparent_is_shown_on_white(tmp_path):
    clear = np.dstack([PHOTO, np.zeros((6, 8), np.uint8)])
    solid = np.dstack([PHOTO, np.full((6, 8), 255, np.uint8)])
    assert (read_image(saved(tmp_path / "clear.png", clear), (6, 8, 3)) == 255).all()
    pixels = read_image(saved(tmp_path / "solid.png", solid), (6, 8, 3))
    np.testing.assert_array_equal(pixels, PHOTO)
    veil = Image.new("RGBA", (2, 2), (0, 0, 0, 51))
    assert (read_image(saved(tmp_path / "veil.png", veil), (2, 2, 1)) == 204).all()


def test_gray_with_alpha_is_grayscale(tmp_path):
    image = Image.fromarray(RAMP)
    image.putalpha(255)
    path = saved(tmp_path / "la.png", image)
    assert describe_image(path).mode == "LA"
    assert check_image(path).grayscale
    np.testing.assert_array_equal(read_image(path, (6, 8, 1))[:, :, 0], RAMP)


def test_palettes(tmp_path):
    gray = Image.fromarray(RAMP).convert("P")
    path = saved(tmp_path / "gray.png", gray)
    assert describe_image(path).mode == "P"
    assert check_image(path).grayscale
    np.testing.assert_array_equal(read_image(path, (6, 8, 1))[:, :, 0], RAMP)
    colors = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    colors.putpalette([255, 0, 0, 0, 0, 255])
    path = saved(tmp_path / "colors.png", colors, transparency=b"\xff\x00")
    assert not check_image(path).grayscale
    assert read_image(path, (1, 2, 3)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_one_bit_and_cmyk(tmp_path):
    bits = RAMP > 100
    path = saved(tmp_path / "bits.png", Image.fromarray(bits))
    assert describe_image(path).mode == "1"
    assert check_image(path).grayscale
    np.testing.assert_array_equal(read_image(path, (6, 8, 1))[:, :, 0], bits * 255)
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    path = saved(tmp_path / "cmyk.jpg", red, quality=100)
    assert not check_image(path).grayscale
    np.testing.assert_allclose(read_image(path, (8, 8, 3)), [[[255, 0, 0]] * 8] * 8, atol=3)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_an_animation_is_its_first_frame(tmp_path, suffix):
    frames = [Image.fromarray(np.full((6, 8), value, np.uint8)) for value in (40, 200)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(
        tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options
    )
    assert (read_image(path, (6, 8, 1)) == 40).all()
    assert check_image(path).size == (6, 8)


def test_another_size_is_resampled_over_the_pixels_areas(tmp_path):
    """A checkerboard becomes gray; taking the nearest pixel would make it black or white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    path = saved(tmp_path / "board.png", board)
    small = read_image(path, (8, 8, 1))
    assert small.shape == (8, 8, 1)
    assert abs(small.astype(int) - 127).max() < 20
    assert read_image(path, (3, 90, 3)).shape == (3, 90, 3)


def test_a_large_jpeg_is_read_as_if_it_was_decoded_in_full(tmp_path):
    rows = np.linspace(0, 255, 800)[:, None] * np.ones(600)
    path = saved(tmp_path / "x.jpg", rows.astype(np.uint8), quality=95)
    with Image.open(path) as image:
        full = fit(image, (40, 30, 1))
    np.testing.assert_allclose(read_image(path, (40, 30, 1)).astype(int), full, atol=3)
    assert check_image(path).size == (800, 600)


def test_fit_treats_an_image_in_memory_as_a_file(tmp_path):
    path = saved(tmp_path / "x.png", PHOTO)
    for shape in [(6, 8, 1), (6, 8, 3), (4, 4, 3), (20, 9, 1)]:
        np.testing.assert_array_equal(fit(Image.fromarray(PHOTO), shape), read_image(path, shape))


def half(content):
    return content[: len(content) // 2]


def encoded(tmp_path, name):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    return saved(tmp_path / name, noise).read_bytes()


def make_bad(tmp_path, kind):
    path = tmp_path / "bad.png"
    if kind.startswith("half"):
        path.write_bytes(half(encoded(tmp_path, "whole." + kind.split()[1])))
    elif kind == "32-bit":
        path = saved(tmp_path / "float.tiff", Image.fromarray(np.ones((2, 2), np.float32)))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "text": b"not an image\n",
                "html": b"<!DOCTYPE html><html>",
                "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
                "bomb": png_header(60000, 60000) + png_chunk(b"IDAT", b""),
                "small bomb": png_header(10000, 10000) + png_chunk(b"IDAT", b""),
                "no pixels": png_header(8, 8) + png_chunk(b"IEND", b""),
                "bad checksum": encoded(tmp_path, "x.png").replace(b"IDAT", b"IDAt", 1),
            }[kind]
        )
    return path


BAD = {
    "empty": "empty file",
    "text": r"not an image that can be read; it begins with b'not an image",
    "html": r"not an image that can be read; it begins with b'<!DOCTYPE ht'",
    "eps": "not an image",
    "missing": "no such file",
    "dangling": "no such file",
    "loop": "too many levels of symbolic links",
    "folder": "is a directory|not a regular file",
    "pipe": "not a regular file",
    "32-bit": "^32-bit pixels",
    "bomb": "^too large: .*3600000000 pixels",
    "small bomb": "^too large: .*10000",
    "no pixels": "damaged",
    "bad checksum": "not an image that can be read",
    "half png": "damaged",
    "half jpg": "damaged: .*truncated",
    "half gif": "damaged",
    "half bmp": "damaged",
    "half tiff": "damaged|too large|not an image",
    "half webp": "damaged|not an image",
}


@pytest.mark.parametrize("kind", BAD)
# With warnings as errors Pillow's own warning would do what the check of the size is for.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_file_is_refused_with_a_reason(tmp_path, kind):
    path = make_bad(tmp_path, kind)
    for function in (check_image, lambda path: read_image(path, (4, 4, 3))):
        with pytest.raises(UnreadableImage, match=r"bad\.png: |float\.tiff: ") as raised:
            function(path)
        error = raised.value
        assert error.path == str(path)
        assert re.search(BAD[kind], error.reason), error.reason
        assert "\n" not in str(error)
        assert error.exit_code == 1


@pytest.mark.parametrize("kind", ["half png", "half jpg", "no pixels"])
def test_describing_does_not_decode(tmp_path, kind):
    path = make_bad(tmp_path, kind)
    assert describe_image(path).size == ((8, 8) if kind == "no pixels" else (64, 64))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_orientation_is_no_orientation(tmp_path):
    path = saved(tmp_path / "x.jpg", PHOTO, exif=b"Exif\x00\x00II*\x00garbage, no directory")
    assert read_image(path, (6, 8, 3)).shape == (6, 8, 3)
    assert check_image(path).size == (6, 8)


def test_the_digest_is_of_the_content(tmp_path):
    one = check_image(saved(tmp_path / "1.png", RAMP))
    two = check_image(saved(tmp_path / "2.png", RAMP))
    other = check_image(saved(tmp_path / "3.png", RAMP + 1))
    assert one.digest == two.digest != other.digest
    assert len(one.digest) == 32


def test_an_unreadable_image_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableImage("a\nb.png", "one\n two")))
    assert (error.path, error.reason) == ("a\nb.png", "one two")
    assert str(error) == r"a\nb.png: one two"


def test_blank_and_dark_images_are_found(tmp_path):
    gray = np.full((40, 40), 90, np.uint8)
    color = np.full((40, 40, 3), (200, 0, 7), np.uint8)
    dark = np.arange(1600, dtype=np.uint8).reshape(40, 40) % 17
    bright = dark.copy()
    bright[3, 3] = 200  # vanishes if the JPEG decoder halves the size three times
    for pixels, expected in (
        (gray, (True, False)),
        (color, (True, False)),
        (gray * 0, (True, False)),
        (dark // 2, (False, True)),
        (bright, (False, False)),
    ):
        for name in ("x.png", "x.jpg", "x.bmp"):
            options = {"quality": 100} if name == "x.jpg" else {}
            checked = check_image(saved(tmp_path / name, pixels, **options))
            assert (checked.one_color, checked.dark) == expected, name


def test_a_jpeg_of_one_block_is_not_blank(tmp_path):
    checked = check_image(saved(tmp_path / "x.jpg", RAMP))
    assert not checked.one_color
    assert not checked.dark
    assert checked.size == (6, 8)


def drawing(color, mode="RGBA", background=255):
    """A square of one color on a transparent background."""
    opacity = np.zeros((12, 12), np.uint8)
    opacity[3:9, 3:9] = 255
    image = Image.new("RGB", (12, 12), (background,) * 3)
    image.paste((color,) * 3, (3, 3, 9, 9))
    image.putalpha(Image.fromarray(opacity))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize("color", [0, 128, 230, 240, 255])
def test_a_drawing_that_would_vanish_on_white_is_shown_on_black(tmp_path, mode, suffix, color):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"x.{suffix}", drawing(color, mode), **options)
    pixels = read_image(path, (12, 12, 1))[:, :, 0]
    on_black = color >= 240
    assert check_image(path).on_black == on_black
    assert pixels[5, 5] == color
    assert pixels[0, 0] == (0 if on_black else 255)
    assert not check_image(path).one_color
    np.testing.assert_array_equal(fit(drawing(color, mode), (12, 12, 1))[:, :, 0], pixels)


def test_a_transparent_image_without_a_drawing_stays_white(tmp_path):
    for opacity in (0, 128, 255):
        white = Image.new("RGBA", (8, 8), (255, 255, 255, opacity))
        checked = check_image(saved(tmp_path / "x.png", white))
        assert not checked.on_black
        assert checked.one_color
        assert (read_image(tmp_path / "x.png", (8, 8, 1)) == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
@pytest.mark.parametrize(("highest", "narrow"), [(0, False), (1, True), (255, True), (256, False)])
def test_8_bit_values_in_16_bits_are_read_as_they_are(tmp_path, suffix, highest, narrow):
    wide = np.zeros((6, 8), np.uint16)
    wide[2, 3] = highest
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 8 6 65535\n" + wide.astype(">u2").tobytes())
    else:
        saved(path, wide)
    assert check_image(path).narrow == narrow
    assert read_image(path, (6, 8, 1)).max() == (highest if narrow else round(highest / 257))


HEIC = bytes((0, 0, 0, 24)) + b"ftypheic" + bytes(400)


@pytest.fixture
def other_plugins():
    """Forget which formats Pillow reads, before and after the test."""
    pillow_formats.cache_clear()
    known = dict(Image.OPEN), list(Image.ID)
    yield
    Image.OPEN.clear()
    Image.OPEN.update(known[0])
    Image.ID[:] = known[1]
    pillow_formats.cache_clear()


@pytest.mark.parametrize("name", ["x.heic", "x.HEIF", "x.jpg", "x"])
def test_a_heic_image_without_pillow_heif_names_the_package(
    tmp_path, monkeypatch, other_plugins, name
):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / name
    path.write_bytes(HEIC)
    with pytest.raises(UnreadableImage) as raised:
        check_image(path)
    assert raised.value.reason == "HEIC pictures need 'pip install pillow-heif'"


def test_a_heic_image_is_read_by_pillow_heif(tmp_path, monkeypatch, other_plugins):
    class Heif(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._size, self._mode = (2, 2), "L"
            self.tile = [ImageFile._Tile("raw", (0, 0, 2, 2), 12, ("L", 0, 1))]

    package = types.ModuleType("pillow_heif")
    package.register_heif_opener = lambda: Image.register_open(
        "HEIF", Heif, lambda start: start[4:8] == b"ftyp"
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    path = tmp_path / "x.heic"
    path.write_bytes(HEIC[:12] + bytes((1, 2, 3, 4)))
    assert check_image(path).size == (2, 2)
    assert read_image(path, (2, 2, 1)).ravel().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_is_checked_with_one_reading(tmp_path, monkeypatch, suffix):
    path = saved(tmp_path / f"x.{suffix}", PHOTO)
    with monkeypatch.context() as patch:
        # A large file is not kept in memory.
        patch.setattr("cnnforge.data.images.read_source", lambda path: None)
        expected = check_image(path)
    monkeypatch.setattr("cnnforge.data.images.open_source", None)
    assert check_image(path) == expected
    assert expected.digest == hashlib.sha256(path.read_bytes()).digest()


def test_a_large_file_that_vanishes_while_it_is_checked_is_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr("cnnforge.data.images.read_source", lambda path: None)
    path = saved(tmp_path / "x.png", RAMP)
    decode = Image.Image.getextrema

    def gone(image):
        path.unlink(missing_ok=True)
        return decode(image)

    monkeypatch.setattr(Image.Image, "getextrema", gone)
    with pytest.raises(UnreadableImage, match="no such file"):
        check_image(path)
