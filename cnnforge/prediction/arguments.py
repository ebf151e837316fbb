"""Convert the images that a caller of `Model.predict` gives to batches of the model's shape."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cnnforge.data import Placing, fit, letterbox, printable
from cnnforge.data.files import in_parallel
from cnnforge.data.images import describe_image, read_into
from cnnforge.data.placement import BORDER
from cnnforge.data.prefetch import MAX_BYTES
from cnnforge.errors import DataError, UsageError

_CHANNELS = (1, 3, 4)
# Weights of red, green and blue in a gray value (ITU-R 601), as in `cnnforge.data.read_image`.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_EXPECTED = (
    "expected the path of an image file, an array (H, W, C) or (H, W), a batch (N, H, W, C), or a "
    "list of paths and arrays"
)


@dataclass(frozen=True)
class GivenImages:
    """The images of a call.

    Attributes:
        items: The images: a batch, (N, H, W, C), or paths and arrays of any size.
        single: Whether the caller gave one image, and not a sequence of images.
    """

    items: Sequence[Any] | np.ndarray
    single: bool

    @classmethod
    def of(cls, images: Any) -> GivenImages:
        """Find out whether an argument is one image or several.

        Raises:
            UsageError: It is neither.
        """
        if isinstance(images, str | os.PathLike | Image.Image):
            return cls([images], single=True)
        if isinstance(images, list | tuple):
            return cls(images, single=False)
        if not isinstance(images, np.ndarray):
            raise UsageError(f"the images are of the type {type(images).__name__}: {_EXPECTED}")
        # A subclass may index in another way: a row of an `np.matrix` is a matrix.
        images = np.asarray(images)
        if images.ndim == 2 or (images.ndim == 3 and images.shape[2] in _CHANNELS):
            return cls([images], single=True)
        if images.ndim == 3:
            return cls(images[..., np.newaxis], single=False)
        if images.ndim == 4:
            return cls(images, single=False)
        raise UsageError(f"the images have the shape {images.shape}: {_EXPECTED}")

    def names(self) -> list[str]:
        """Return a name for each image: its path, or `"image 0"`, `"image 1"`, ..."""
        if isinstance(self.items, np.ndarray):
            return [f"image {number}" for number in range(len(self.items))]
        return [_name(item, number) for number, item in enumerate(self.items)]

    def batches(
        self, image_shape: tuple[int, int, int], placing: Placing
    ) -> Iterator[tuple[np.ndarray, list[tuple[int, int]]]]:
        """Convert the images to the shape of the model, in batches of at most 32 MiB.

        Args:
            image_shape: (H, W, C) of the model.
            placing: The way in which an image of another size fills the model's image.

        Yields:
            At least one batch: the images, (n, H, W, C) uint8 or float32, and the height and width
            that each of them had.

        Raises:
            DataError: A file is not an image, or is damaged.
            UsageError: An array is not an image.
        """
        items, size = self.items, max(1, min(512, MAX_BYTES // int(np.prod(image_shape))))
        if not len(items):
            yield np.empty((0, *image_shape), np.uint8), []
        for first in range(0, len(items), size):
            group = items[first : first + size]
            if isinstance(group, np.ndarray) and group.shape[1:] == image_shape:
                pixels = _pixels(group, f"images {first} to {first + len(group) - 1}")
                yield pixels, [image_shape[:2]] * len(group)
                continue

            def converted(numbered: tuple[int, Any]) -> tuple[np.ndarray, tuple[int, int]]:
                return fitted(*numbered, image_shape, placing)

            images, sizes = zip(*in_parallel(converted, list(enumerate(group, first))), strict=True)
            # uint8 and float32 images together are float32.
            yield np.stack(images), list(sizes)

    def originals(self, channels: int) -> Iterator[np.ndarray]:
        """Convert the images to the channels of the model, each in its own size.

        Args:
            channels: Channels of the model's images, 1 or 3.

        Yields:
            For each image (H, W, channels), uint8 or float32.

        Raises:
            DataError: A file is not an image, or is damaged.
            UsageError: An array is not an image.
        """
        for number, item in enumerate(self.items):
            if isinstance(item, str | os.PathLike):
                height, width = describe_image(os.fspath(item)).size
            elif isinstance(item, Image.Image):
                height, width = item.height, item.width
            else:
                height, width = (*getattr(item, "shape", ()), 1, 1)[:2]
            yield fitted(number, item, (height, width, channels), "stretch")[0]


def _name(item: Any, number: int) -> str:
    if isinstance(item, str | os.PathLike):
        return printable(os.fspath(item))
    return f"image {number}"


def fitted(
    number: int, item: Any, image_shape: tuple[int, int, int], placing: Placing
) -> tuple[np.ndarray, tuple[int, int]]:
    """Convert one image to the shape of the model, as `cnnforge.data.read_image` converts files.

    Args:
        number: Number of the image, for error messages.
        item: Path of a file, an image of Pillow, or an array.
        image_shape: (H, W, C) of the model.
        placing: The way in which an image of another size fills the model's image.

    Returns:
        The image, and the height and width that it had.
    """
    name = _name(item, number)
    if isinstance(item, str | os.PathLike):
        pixels = np.empty(image_shape, np.uint8)
        return pixels, read_into(os.fspath(item), pixels, placing)
    if isinstance(item, Image.Image):
        try:
            return fit(item, image_shape, placing), (item.height, item.width)
        except (ValueError, OSError) as error:
            raise DataError(f"{name}: {error}") from error
    if not isinstance(item, np.ndarray):
        raise UsageError(f"{name} is of the type {type(item).__name__}: {_EXPECTED}")
    pixels = _pixels(np.asarray(item), name)
    pixels = pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in _CHANNELS or not pixels.size:
        raise UsageError(
            f"{name} has the shape {item.shape}: expected (H, W) or (H, W, C), with 1, 3 or 4 "
            "channels"
        )
    size = pixels.shape[0], pixels.shape[1]
    if pixels.shape == image_shape:
        return pixels, size
    if pixels.dtype == np.uint8:
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        return fit(image, image_shape, placing), size
    if pixels.shape[2] == 4:
        raise UsageError(f"{name} is a float image with 4 channels: remove the transparency")
    return _fitted_floats(pixels, image_shape, placing), size


def _fitted_floats(
    pixels: np.ndarray, image_shape: tuple[int, int, int], placing: Placing
) -> np.ndarray:
    height, width, channels = image_shape
    if channels == 1 and pixels.shape[2] == 3:
        pixels = (pixels @ _LUMA)[:, :, np.newaxis]
    left = top = 0
    if placing == "letterbox":
        placed = letterbox((pixels.shape[0], pixels.shape[1]), (height, width))
        left, top, width, height = placed.left, placed.top, placed.width, placed.height
    if pixels.shape[:2] != (height, width):
        planes = [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(pixels[:, :, channel])).resize(
                    (width, height), Image.Resampling.BICUBIC
                )
            )
            for channel in range(pixels.shape[2])
        ]
        # Bicubic resampling overshoots at edges, and pixels of files are clipped there.
        pixels = np.stack(planes, -1).clip(0, 255)
    result = np.full(image_shape, BORDER, np.float32)
    result[top : top + height, left : left + width] = pixels
    return result


def _pixels(array: np.ndarray, name: str) -> np.ndarray:
    """Return pixel values as uint8 or float32.

    Raises:
        UsageError: They are not numbers, or integers that are not in 0..255.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind not in "iu":
        raise UsageError(
            f"{name}: pixel values of the type {array.dtype}, expected uint8 or float, 0 to 255"
        )
    if array.min(initial=0) < 0 or array.max(initial=0) > 255:
        raise UsageError(
            f"{name}: pixel values from {array.min()} to {array.max()}, expected 0 to 255"
        )
    return array.astype(np.uint8)
