"""Compare the pixels of the fast decoders with those of Pillow, bit for bit."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cnnforge.data import images
from cnnforge.data.decoders import plain_png
from cnnforge.data.images import UnreadableImage, read_image

GENERATOR = np.random.default_rng(5)
COARSE = GENERATOR.integers(0, 256, (12, 17, 3), np.uint8)
PHOTO = Image.fromarray(COARSE).resize((133, 91), Image.Resampling.BICUBIC)
SHAPES = ((91, 133, 3), (91, 133, 1), (20, 30, 3), (8, 8, 1), (133, 91, 3), (200, 150, 3))


def slow(path, shape):
    """Read an image with Pillow alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "plain_png", lambda content: None)
        patch.setattr(images, "jpeg_pixels", lambda *_: None)
        return read_image(path, shape)


@pytest.fixture
def used(monkeypatch):
    """Return a list that gets the results of the fast decoders."""
    results = []
    for name in ("plain_png", "jpeg_pixels"):
        function = getattr(images, name)

        def call(*args, function=function):
            results.append(function(*args))
            return results[-1]

        monkeypatch.setattr(images, name, call)
    return results


def check(path, used, fast):
    for shape in SHAPES:
        used.clear()
        found = read_image(path, shape)
        assert (used[-1] is not None) is fast
        np.testing.assert_array_equal(found, slow(path, shape))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 5, "progressive": True},
        {"subsampling": 0},
        {"subsampling": 1, "restart_marker_rows": 1},
        {"quality": 100, "optimize": True},
    ],
)
def test_jpeg_has_the_same_pixels(tmp_path, used, mode, options):
    path = tmp_path / "x.jpg"
    PHOTO.convert(mode).save(path, **options)
    check(path, used, mode != "CMYK")


def test_a_plain_jpeg_of_the_right_size_is_not_opened_by_pillow(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    path = tmp_path / "x.jpg"
    for mode, shape in (("RGB", SHAPES[0]), ("L", SHAPES[1])):
        PHOTO.convert(mode).save(path)
        expected = slow(path, shape)
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", refuse)
            np.testing.assert_array_equal(read_image(path, shape), expected)


def test_jpeg_without_a_change_of_colors_has_the_same_pixels(tmp_path, used):
    PHOTO.save(tmp_path / "x.jpg", keep_rgb=True)
    check(tmp_path / "x.jpg", used, True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_jpeg_has_the_same_pixels(tmp_path, used, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for mode in ("RGB", "L"):
        PHOTO.convert(mode).save(tmp_path / "x.jpg", exif=exif)
        check(tmp_path / "x.jpg", used, True)


def test_a_large_jpeg_is_reduced_as_pillow_does(tmp_path, used):
    path = tmp_path / "x.jpg"
    PHOTO.resize((1333, 911)).save(path)
    check(path, used, True)
    assert used[-1].shape == (456, 667, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "I;16"])
def test_png_has_the_same_pixels(tmp_path, used, mode):
    image = PHOTO.convert("L").convert("I;16") if mode == "I;16" else PHOTO.convert(mode)
    image.save(tmp_path / "x.png")
    check(tmp_path / "x.png", used, mode in ("RGB", "L"))


def test_png_with_more_information_has_the_same_pixels(tmp_path, used):
    path = tmp_path / "x.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "me")
    PHOTO.save(path, pnginfo=text, dpi=(90, 90))
    check(path, used, True)
    PHOTO.save(path, transparency=PHOTO.getpixel((0, 0)))
    check(path, used, False)
    exif = Image.Exif()
    exif[0x0112] = 6
    PHOTO.save(path, exif=exif)
    check(path, used, False)
    # Random pixels need several chunks.
    noise = GENERATOR.integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert path.read_bytes().count(b"IDAT") > 1
    np.testing.assert_array_equal(read_image(path, (300, 400, 3)), noise)
    assert used[-1] is not None


def test_damaged_png_and_jpeg_are_refused(tmp_path):
    for suffix in ("png", "jpg"):
        path = tmp_path / f"x.{suffix}"
        PHOTO.save(path)
        content = path.read_bytes()
        for size in (0, 8, 20, 40, 60, len(content) // 2):
            path.write_bytes(content[:size])
            with pytest.raises(UnreadableImage):
                read_image(path, SHAPES[0])
    data = bytearray(content_of_png := PHOTO_PNG)
    data[60] ^= 255
    assert plain_png(bytes(data)) is None
    assert plain_png(content_of_png) is not None


def _png():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = b"".join(b"\0" + row.tobytes() for row in COARSE)
    header = struct.pack(">IIBBBBB", 17, 12, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PHOTO_PNG = _png()


def test_too_many_pixels_are_refused(tmp_path, monkeypatch):
    PHOTO.save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_000)
    with pytest.raises(UnreadableImage, match="too large: "):
        read_image(tmp_path / "x.png", SHAPES[0])
