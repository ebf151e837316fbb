"""Convert decoded images to 8 bits without transparency, and find those that show nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cnnforge.data.placement import as_mode

# Pixels up to this value look black (JPEG files of video frames store black as 16), and pixels that
# differ from white by no more look white.
_DARK = 16
# Pixels of 16 bits that are converted at a time.
_AT_ONCE = 1 << 20


class UnsupportedPixels(ValueError):
    """The file is not damaged, but its pixels have neither 8 nor 16 bits."""


class Flat(NamedTuple):
    """An image without transparency, and how it was converted.

    Attributes:
        image: The image, in the 8-bit mode `"L"` or `"RGB"`.
        on_black: Whether it is shown on black. By default, it is shown on white.
        narrow: Whether it has 16 bits, and values up to 255 only.
    """

    image: Image.Image
    on_black: bool = False
    narrow: bool = False


def flattened(image: Image.Image) -> Flat:
    """Convert an image to 8 bits without transparency.

    Args:
        image: A decoded image of any mode.

    Returns:
        The image in the mode `"L"` or `"RGB"`, of the same size.

    Raises:
        UnsupportedPixels: Its pixels have 32 bits.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Scale 16-bit values to 8 bits. Pillow's own conversion would clip values above 255.
        wide = np.asarray(image)
        highest = wide.max(initial=0)
        narrow = np.empty(wide.shape, np.uint8)
        # Some rows at a time: all rows with 64 bits need eight times the memory of the image.
        rows = max(1, _AT_ONCE // max(1, image.width))
        for start in range(0, len(wide), rows):
            values = wide[start : start + rows].astype(np.int64).clip(0, 65535)
            if highest > 255:
                values = (values * 255 + 32767) // 65535
            narrow[start : start + rows] = values
        return Flat(Image.fromarray(narrow), narrow=0 < highest <= 255)
    if image.mode in ("I", "F"):
        raise UnsupportedPixels("32-bit pixels have no fixed range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        return _on_a_background(as_mode(image, "RGBA"))
    return Flat(as_mode(image, "L" if image.mode in ("1", "L") else "RGB"))


def _on_a_background(image: Image.Image) -> Flat:
    """Show an RGBA image on white, or on black if everything that is visible vanishes on white."""
    opacity = image.getchannel("A")
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=opacity)
    least, most = opacity.getextrema()
    on_black = least != most and _vanishes(flat)
    if on_black:
        flat.paste("black", (0, 0, *image.size))
        flat.paste(image, mask=opacity)
    return Flat(flat, on_black=on_black)


def blankness(flat: Image.Image) -> tuple[bool, bool]:
    """Return whether all pixels have one color, and whether the image is else nearly black.

    Args:
        flat: An image of the mode `"L"` or `"RGB"`.
    """
    for some in (_sampled(flat), flat):
        bands = _extremes(some)
        one_color = all(low == high for low, high in bands)
        dark = not one_color and max(high for _, high in bands) <= _DARK
        # A few pixels show that most images are neither.
        if not one_color and not dark:
            return False, False
    return one_color, dark


def _vanishes(flat: Image.Image) -> bool:
    """Return whether all pixels are white or look white."""
    return all(low >= 255 - _DARK for some in (_sampled(flat), flat) for low, _ in _extremes(some))


def _sampled(flat: Image.Image) -> Image.Image:
    size = min(flat.width, 32), min(flat.height, 32)
    return flat.resize(size, Image.Resampling.NEAREST)


def _extremes(flat: Image.Image) -> list[tuple[int, int]]:
    """Return the min and the max value of the pixels in each band."""
    # Unlike `split`, this copies one band at a time.
    found: Any = flat.getextrema()
    return [found] if flat.mode == "L" else list(found)


def has_only_shades_of_gray(flat: Image.Image) -> bool:
    """Return whether the bands of all pixels are equal.

    Args:
        flat: An image of the mode `"L"` or `"RGB"`.
    """
    pixels = np.asarray(flat)
    return pixels.ndim == 2 or bool((pixels == pixels[:, :, :1]).all())
