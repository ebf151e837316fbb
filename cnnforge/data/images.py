"""Decode image files to NumPy arrays, for training and for prediction."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from threading import RLock
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cnnforge.data.decoders import LARGE, jpeg_pixels, plain_jpeg, plain_png
from cnnforge.data.flat import (
    UnsupportedPixels,
    blankness,
    flattened,
    has_only_shades_of_gray,
)
from cnnforge.data.formats import content_reason, pillow_formats
from cnnforge.data.placement import Placing, place
from cnnforge.data.stored import ImageSource, open_source, read_source, source_path
from cnnforge.errors import DataError
from cnnforge.utils.names import printable

_GRAYSCALE_MODES = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"))
_EXIF_ORIENTATION = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
# One large image is decoded at a time: each takes up to 12 bytes a pixel.
_ALONE = RLock()


class UnreadableImage(DataError):
    """A file that is not an image, or is damaged.

    Args:
        path: The file.
        reason: The cause, in one line.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = printable(" ".join(reason.split()))
        super().__init__(f"{printable(self.path)}: {self.reason}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Make the exception picklable. By default, unpickling passes only the message."""
        return type(self), (self.path, self.reason)


class ImageInfo(NamedTuple):
    """The size and the mode of an image file, read from its header.

    Attributes:
        size: Height and width of the image after it is rotated as its orientation (EXIF) says.
        mode: Pillow's name of the pixel format: `"L"`, `"RGB"`, `"P"`, ...
        orientation: The orientation (EXIF), 1 to 8; from 5 on, height and width change places.
    """

    size: tuple[int, int]
    mode: str
    orientation: int = 1


class CheckedImage(NamedTuple):
    """The properties of an image file that was decoded without error.

    Attributes:
        size: Height and width of the image after it is rotated as its orientation (EXIF) says.
        grayscale: Whether the image has a grayscale mode, or has a palette and only gray pixels.
        digest: sha256 of the file, 32 bytes.
        one_color: Whether all pixels have the same color.
        dark: Whether the image is nearly black, but has more than one color.
        on_black: Whether transparent pixels are shown on black, because everything that is visible
            would vanish on white.
        narrow: Whether 16-bit pixels hold 8-bit values, and are read as these.
        mode: Pillow's name of the pixel format: `"L"`, `"RGB"`, `"P"`, ...
        transparent: Whether the file can have transparent pixels.
    """

    size: tuple[int, int]
    grayscale: bool
    digest: bytes
    one_color: bool = False
    dark: bool = False
    on_black: bool = False
    narrow: bool = False
    mode: str = ""
    transparent: bool = False


def read_image(
    path: ImageSource, image_shape: tuple[int, int, int], placing: Placing = "stretch"
) -> np.ndarray:
    """Decode an image file, and convert the image to a given shape.

    The image is rotated as its orientation (EXIF) says. Only the first frame of an animation is
    read. Transparent pixels are shown on white, or on black if everything that is visible would
    vanish on white. 16-bit gray is scaled to 8 bits, unless its values are all below 256. If the
    image has another size, it is resampled (bicubic, with antialiasing). Colour profiles are
    ignored.

    Args:
        path: The file, or its place in another file.
        image_shape: (H, W, C); C is 1 (grayscale, by ITU-R 601 luma) or 3 (RGB).
        placing: The way in which an image of another size fills the result.

    Returns:
        (H, W, C) uint8.

    Raises:
        UnreadableImage: If the file is missing, empty, truncated, not an image or too large, or
            has 32-bit pixels, which have no fixed range.
    """
    pixels = np.empty(image_shape, np.uint8)
    read_into(path, pixels, placing)
    return pixels


def read_into(path: ImageSource, pixels: np.ndarray, placing: Placing) -> tuple[int, int]:
    """Decode an image file into an array, see `read_image`.

    Args:
        path: The file, or its place in another file.
        pixels: (H, W, C) uint8 array for the pixels, which must be contiguous; C is 1 or 3.
        placing: The way in which an image of another size fills the array.

    Returns:
        Height and width of the image after it is rotated as its orientation (EXIF) says.

    Raises:
        UnreadableImage: See `read_image`.
    """
    content = read_source(path)
    # Most files are of these two kinds. `Image.open` takes longer than decoding a small image.
    if content is not None:
        if (plain := plain_png(content)) is not None:
            place(flattened(plain).image, pixels, placing)
            return plain.height, plain.width
        mode = plain_jpeg(content, pixels.shape)
        if mode and jpeg_pixels(content, mode, pixels.shape[:2], False, pixels) is not None:
            return pixels.shape[0], pixels.shape[1]
    with _reading(path, content) as image:
        if content is not None and image.format in ("JPEG", "MPO"):
            return _read_jpeg(image, content, pixels, placing)
        upright = _upright(image)
        place(flattened(upright).image, pixels, placing)
        return upright.height, upright.width


def _read_jpeg(
    image: Image.Image, content: bytes, pixels: np.ndarray, placing: Placing
) -> tuple[int, int]:
    height, width, channels = pixels.shape
    full_size, orientation = image.size, _orientation(image)
    shown = _shown_size(full_size, orientation)
    # The decoder can halve the size while it decodes, which saves time. With at least twice the
    # final size, the quality depends on the resampling in `fit`.
    image.draft(None, (2 * max(width, height), 2 * max(width, height)))
    size, reduced = (image.height, image.width), image.size != full_size
    method = _TRANSPOSES.get(orientation)
    as_stored = method is None and size == (height, width) and channels == len(image.getbands())
    decoded = jpeg_pixels(content, image.mode, size, reduced, pixels if as_stored else None)
    if decoded is None:
        place(flattened(_upright(image)).image, pixels, placing, shown)
    elif not as_stored:
        upright = Image.fromarray(decoded[:, :, 0] if image.mode == "L" else decoded)
        upright = upright if method is None else upright.transpose(method)
        place(flattened(upright).image, pixels, placing, shown)
    return shown


def describe_image(path: ImageSource) -> ImageInfo:
    """Read the size and the mode of an image from the header of its file, without decoding pixels.

    Args:
        path: The file, or its place in another file.

    Returns:
        Size and mode.

    Raises:
        UnreadableImage: If the header cannot be read.
    """
    with _reading(path) as image:
        turn = _orientation(image)
        return ImageInfo(_shown_size(image.size, turn), image.mode, turn)


def check_image(path: ImageSource) -> CheckedImage:
    """Decode an image file completely, to find out whether `read_image` can decode it.

    Args:
        path: The file, or its place in another file.

    Returns:
        Its properties.

    Raises:
        UnreadableImage: If `read_image` would raise it.
    """
    content = read_source(path)
    # See `read_into`.
    plain = None if content is None else plain_png(content)
    if content is not None and plain is not None:
        digest, one_color_and_dark = hashlib.sha256(content).digest(), blankness(plain)
        size = plain.height, plain.width
        return CheckedImage(size, plain.mode == "L", digest, *one_color_and_dark, mode=plain.mode)
    with _reading(path, content) as image:
        full_size = image.size
        # A JPEG at an eighth of its size is decoded faster, and all of its bytes are still read.
        reduced = image.draft(None, (1, 1)) is not None
        image.load()
        # Loading may rotate a TIFF and swap height and width. `draft` has reduced a JPEG.
        size = full_size if reduced else image.size
        flat = flattened(image)
        grayscale = image.mode in _GRAYSCALE_MODES or (
            image.mode in ("P", "PA") and has_only_shades_of_gray(flat.image)
        )
        size = _shown_size(size, _orientation(image))
        mode, transparent = image.mode, image.has_transparency_data
        one_color, dark = blankness(flat.image)
        if reduced and (one_color or dark):
            # A pixel of the reduced image is the mean of many. Decode all pixels.
            with _reading(path, content) as whole:
                one_color, dark = blankness(flattened(whole).image)
        with open_source(path) if content is None else BytesIO(content) as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    return CheckedImage(
        size, grayscale, digest, one_color, dark, flat.on_black, flat.narrow, mode, transparent
    )


def fit(
    image: Image.Image, image_shape: tuple[int, int, int], placing: Placing = "stretch"
) -> np.ndarray:
    """Resize a decoded image and convert it to uint8, in the same way as `read_image`.

    Args:
        image: A Pillow image. Modes with 32-bit pixels are not accepted.
        image_shape: (H, W, C); C is 1 or 3.
        placing: The way in which an image of another size fills the result.

    Returns:
        (H, W, C) uint8.

    Raises:
        ValueError: If the mode cannot be converted to 8 bits.
    """
    pixels = np.empty(image_shape, np.uint8)
    place(flattened(image).image, pixels, placing)
    return pixels


@contextmanager
def _reading(path: ImageSource, content: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image file, or its content; every error in the block is an `UnreadableImage`."""
    try:
        with (
            open_source(path) if content is None else BytesIO(content) as file,
            Image.open(file, formats=pillow_formats()) as image,
        ):
            limit, count = Image.MAX_IMAGE_PIXELS, image.width * image.height
            # Pillow itself raises an error only above twice its limit.
            if limit is not None and count > limit:
                raise Image.DecompressionBombError(
                    f"{image.width} x {image.height} pixels, at most {limit} are read"
                )
            with _ALONE if count > LARGE else nullcontext():
                yield image
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(source_path(path), _reason(path, error)) from error


def _reason(path: ImageSource, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        try:
            with open_source(path) as file:
                return content_reason(file.read(12))
        except OSError as gone:
            error = gone
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too large: {error}"
    if isinstance(error, UnsupportedPixels):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return str(error.strerror or error).lower()
    return f"damaged: {error}" if str(error) else f"damaged: {type(error).__name__}"


def _orientation(image: Image.Image) -> int:
    # Pillow rotates a TIFF itself. A PNG may store its orientation after the pixels, and reading it
    # would decode them.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        return 1


def _shown_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the (height, width) of the rotated image. `size` is Pillow's (width, height)."""
    width, height = size
    return (width, height) if orientation in _SIDEWAYS else (height, width)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    method = _TRANSPOSES.get(_orientation(image))
    return image if method is None else image.transpose(method)
