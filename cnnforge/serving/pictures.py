"""Decode pictures that strangers send: check their format and their size first."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from cnnforge.data import Placing, UnreadableImage
from cnnforge.data.images import read_into
from cnnforge.data.stored import StoredImage
from cnnforge.serving.limits import Limits, Refused

NAME = "picture"
"""Name of every picture in a row of a prediction table: the name of a file is not sent."""

# `predict` reads more formats. Their decoders are larger, and a browser sends none of them.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_EXPECTED = "expected a PNG, JPEG, WebP, BMP or GIF picture"
# A progressive JPEG has about ten scans. Each scan takes as long as a whole picture.
_SCAN = b"\xff\xda"
_MAX_SCANS = 100


def stored(content: bytes) -> StoredImage:
    """Return a picture in memory in the form in which `cnnforge.data` reads pictures.

    Args:
        content: Content of the file.
    """
    return StoredImage(NAME, lambda offset, size: content[offset : offset + size], 0, len(content))


def check_picture(content: bytes, limits: Limits) -> None:
    """Check format and size of a picture, without decoding its pixels.

    Args:
        content: Content of the file.
        limits: The limits of the server.

    Raises:
        Refused: It is not a picture of a format that is read, or it is too large.
    """
    if not content:
        raise Refused(400, f"the request is empty, {_EXPECTED}")
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise Refused(415, f"the file begins with {content[:8]!r}, {_EXPECTED}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow has its own limit, which is higher.
        raise Refused(413, _too_large("more", limits)) from None
    except Exception as error:
        raise Refused(415, f"the picture is damaged: {_one_line(error)}") from None
    if width * height > limits.pixels:
        raise Refused(413, _too_large(f"{width:,} x {height:,} pixels", limits))
    if content.startswith(b"\xff\xd8") and content.count(_SCAN) > _MAX_SCANS:
        raise Refused(413, f"the JPEG has more than {_MAX_SCANS} scans: save it again")


def decode(
    content: bytes, shape: tuple[int, int, int], placing: Placing, limits: Limits
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode a picture in the way of `cnnforge predict`.

    Args:
        content: Content of the file.
        shape: (H, W, C) of the model's images.
        placing: The way in which a picture of another size fills the model's image.
        limits: The limits of the server.

    Returns:
        The pixels, (H, W, C) uint8, and height and width of the picture.

    Raises:
        Refused: See `check_picture`; or the picture is damaged.
    """
    check_picture(content, limits)
    pixels = np.empty(shape, np.uint8)
    try:
        return pixels, read_into(stored(content), pixels, placing)
    except UnreadableImage as error:
        raise Refused(415, f"the picture cannot be read: {error.reason}") from None


def _too_large(what: str, limits: Limits) -> str:
    return f"the picture has {what}, at most {limits.pixels:,} pixels are read: make it smaller"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
