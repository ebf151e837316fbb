"""Decode the two kinds of files that most data consist of faster than Pillow opens them.

Both functions give the pixels that Pillow gives, bit for bit. They return `None` for a file that
they do not read, also for a damaged one: Pillow then decodes it or says what is wrong.
"""

from __future__ import annotations

import struct
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">4sIIBBBBB")
_CHUNK = struct.Struct(">I4s")
# Chunks that do not change how Pillow shows the pixels. A file with another chunk, such as
# transparency or an orientation, is left to Pillow.
_HARMLESS = frozenset((b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"tEXt", b"bKGD", b"sBIT"))
_PNG_MODES = {0: "L", 2: "RGB"}
_SEGMENT = struct.Struct(">BBH")
_SCAN = 0xDA
# Segments with an orientation, several pictures or a color transform: APP1, APP2 and APP14.
_SPECIAL = frozenset((0xE1, 0xE2, 0xEE))
_JPEG_MODES = {"Gray": "L", "YCbCr": "RGB"}
# The sizes of a small image that is reduced by different factors may be equal, and the decoder
# could choose another factor than Pillow.
_MIN_REDUCED = 16
LARGE = 40_000_000
"""Images with more pixels are decoded by Pillow, one at a time."""


def plain_png(data: bytes) -> Image.Image | None:
    """Decode a PNG with 8-bit gray or RGB pixels that has no transparency.

    Pillow's own decoder is called once. `Image.open` would parse the file in Python, which takes
    longer than decoding a small image, and keeps the interpreter lock.

    Args:
        data: Content of the file.

    Returns:
        An image with mode `"L"` or `"RGB"`, or `None`.
    """
    if data[:8] != _PNG or len(data) < 57:
        return None
    kind, width, height, bits, color, *rest = _HEADER.unpack_from(data, 12)
    mode = _PNG_MODES.get(color)
    if kind != b"IHDR" or bits != 8 or mode is None or any(rest):
        return None
    if not 0 < width * height <= min(Image.MAX_IMAGE_PIXELS or LARGE, LARGE):
        return None
    position, parts = 33, []
    while position + 12 <= len(data):
        size, kind = _CHUNK.unpack_from(data, position)
        if kind == b"IDAT":
            parts.append(data[position + 8 : position + 8 + size])
        elif kind == b"IEND":
            break
        elif kind not in _HARMLESS:
            return None
        position += size + 12
    try:
        return Image.frombytes(mode, (width, height), b"".join(parts), "zip", mode, 0)
    except (ValueError, OSError):
        return None


def plain_jpeg(data: bytes, shape: tuple[int, ...]) -> str | None:
    """Return the mode of a JPEG if its pixels need no change after decoding.

    Args:
        data: Content of the file.
        shape: (H, W, C) of the image that is needed.

    Returns:
        `"L"` or `"RGB"`; `None` if the size or the mode differs, or if the file has segments that
        `Image.open` must read, such as an orientation.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    position = 2
    while position + 4 <= len(data):
        mark, kind, size = _SEGMENT.unpack_from(data, position)
        if mark != 0xFF or kind in _SPECIAL:
            return None
        position += size + 2
        if kind == _SCAN:
            break
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and shape[0] * shape[1] > limit:
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, RuntimeError):
        return None
    mode = _JPEG_MODES.get(colors)
    if mode is None or (height, width, 1 if mode == "L" else 3) != tuple(shape):
        return None
    return mode


def jpeg_pixels(
    data: bytes, mode: str, size: tuple[int, int], reduced: bool, out: np.ndarray | None = None
) -> np.ndarray | None:
    """Decode a JPEG straight into an array.

    Pillow stores 4 bytes for each RGB pixel, and packs them into 3 while it keeps the interpreter
    lock, which takes as long as decoding.

    Args:
        data: Content of the file.
        mode: Pillow's name of the pixel format.
        size: Height and width of the decoded image, as Pillow computes them.
        reduced: Whether this is less than the size of the file.
        out: (H, W, C) uint8 array for the pixels; it must be contiguous. `None`: a new array.

    Returns:
        (H, W, C) uint8; C is 1 for mode `"L"` and 3 for `"RGB"`. `None` if the file has another
        mode or is damaged; `out` then has undefined values.
    """
    colorspace: Literal["GRAY", "RGB"] | None
    colorspace = "GRAY" if mode == "L" else "RGB" if mode == "RGB" else None
    if colorspace is None or (reduced and min(size) < _MIN_REDUCED):
        return None
    height, width = size if reduced else (0, 0)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, colorspace, min_height=height, min_width=width, buffer=out
        )
    except (ValueError, RuntimeError):
        return None
    return pixels if pixels.shape[:2] == size else None
