"""Place an image in the model's image: stretched to its size, or letterboxed.

Points and boxes are in the coordinates of `cnnforge.data.transforms`: the top left corner of an
image is (0, 0), and a box `x1 y1 x2 y2` has the width x2 - x1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

Placing = Literal["stretch", "letterbox"]
"""How an image of another size fills the model's image. `"stretch"` does not keep the aspect ratio.
`"letterbox"` keeps it, centres the image, and fills the border with gray."""
PLACINGS: tuple[str, ...] = get_args(Placing)
BORDER = 114
"""Value of the border of a letterboxed image in every channel."""


class Placement(NamedTuple):
    """The place of an image in the model's image, in pixels of the model's image.

    The position in the model's image is `position * scale + (left, top)`. The two scales differ a
    little, because the size of the resized image is rounded.

    Attributes:
        scale_x: Width of the resized image divided by the width of the image.
        scale_y: Height of the resized image divided by the height of the image.
        left: Width of the border on the left.
        top: Height of the border at the top.
        width: Width of the resized image.
        height: Height of the resized image.
    """

    scale_x: float
    scale_y: float
    left: int
    top: int
    width: int
    height: int

    def to_model(self, boxes: np.ndarray) -> np.ndarray:
        """Convert boxes in the image to boxes in the model's image.

        Args:
            boxes: (k, 4) float, `x1 y1 x2 y2`.

        Returns:
            (k, 4) float64.
        """
        scale, offset = self._arrays()
        return boxes * scale + offset

    def to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Convert boxes in the model's image to boxes in the image.

        Args:
            boxes: (k, 4) float, `x1 y1 x2 y2`.

        Returns:
            (k, 4) float64; they may exceed the image.
        """
        scale, offset = self._arrays()
        return (boxes - offset) / scale

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        scale = np.array([self.scale_x, self.scale_y] * 2)
        return scale, np.array([self.left, self.top] * 2, np.float64)


def letterbox(size: tuple[int, int], shape: tuple[int, int]) -> Placement:
    """Return the placement of an image that keeps its aspect ratio and is centred.

    Args:
        size: Height and width of the image, at least 1.
        shape: Height and width of the model's image.
    """
    (height, width), (full_height, full_width) = map(_integers, (size, shape))
    ratio = min(full_height / height, full_width / width)
    new_height = min(full_height, max(1, round(height * ratio)))
    new_width = min(full_width, max(1, round(width * ratio)))
    return Placement(
        new_width / width,
        new_height / height,
        (full_width - new_width) // 2,
        (full_height - new_height) // 2,
        new_width,
        new_height,
    )


def _integers(size: tuple[int, int]) -> tuple[int, int]:
    return int(size[0]), int(size[1])


def place(
    image: Image.Image, pixels: np.ndarray, placing: str = "stretch", size: tuple[int, int] = (0, 0)
) -> None:
    """Resize an image and write its pixels.

    Args:
        image: An image with mode `"L"` or `"RGB"`.
        pixels: (H, W, C) uint8 array for the pixels; C is 1 or 3.
        placing: A `Placing`.
        size: Height and width of the image before it was reduced while decoding; (0, 0) if it was
            not reduced.
    """
    height, width, channels = pixels.shape
    image = as_mode(image, "L" if channels == 1 else "RGB")
    if placing == "letterbox":
        placed = letterbox(size if size[0] else (image.height, image.width), (height, width))
        if (placed.height, placed.width) != (height, width):
            pixels[...] = BORDER
            height, width = placed.height, placed.width
            pixels = pixels[placed.top : placed.top + height, placed.left : placed.left + width]
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels[...] = np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, channels)


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to a mode of Pillow."""
    # Pillow copies all pixels if the mode is the same.
    return image if image.mode == mode else image.convert(mode)
