"""Read a group of images for a prediction, and keep the reason for each that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnnforge.data import (
    ImageSource,
    Placing,
    SkippedFile,
    UnreadableImage,
    printable,
    source_path,
)
from cnnforge.data.files import in_parallel
from cnnforge.data.images import read_into
from cnnforge.data.prefetch import MAX_BYTES


class ReadImages(NamedTuple):
    """Images of the model's size, ready for a call of the model.

    Attributes:
        names: N names, for the rows.
        reasons: For each of them, why it cannot be read; `None` for the n that were read.
        pixels: (n, H, W, C) uint8, the images that were read.
        sizes: The n heights and widths of these images in their files.
    """

    names: list[str]
    reasons: list[str | None]
    pixels: np.ndarray
    sizes: list[tuple[int, int]]


def group_size(image_shape: tuple[int, int, int]) -> int:
    """Return the max number of images that are read for one call of the model.

    Args:
        image_shape: (H, W, C) of the model's images.
    """
    return max(1, min(512, MAX_BYTES // int(np.prod(image_shape))))


def read_images(
    sources: Sequence[ImageSource | SkippedFile],
    image_shape: tuple[int, int, int],
    placing: Placing,
) -> ReadImages:
    """Read images in several threads.

    Args:
        sources: N images. A `SkippedFile` is one that is known to be missing.
        image_shape: (H, W, C) of the result.
        placing: The way in which an image of another size fills the result.
    """

    def read(source: ImageSource | SkippedFile) -> tuple[np.ndarray, tuple[int, int]] | str:
        if isinstance(source, SkippedFile):
            return source.reason
        pixels = np.empty(image_shape, np.uint8)
        try:
            return pixels, read_into(source, pixels, placing)
        except UnreadableImage as error:
            return error.reason

    results = in_parallel(read, sources)
    found = [result for result in results if not isinstance(result, str)]
    return ReadImages(
        [
            printable(each.path if isinstance(each, SkippedFile) else source_path(each))
            for each in sources
        ],
        [result if isinstance(result, str) else None for result in results],
        np.stack([pixels for pixels, _ in found]) if found else np.empty((0, *image_shape), "u1"),
        [size for _, size in found],
    )
