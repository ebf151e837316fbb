"""Read samples from image files, which are decoded only when they are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import lru_cache
from typing import TypeVar

import numpy as np

from cnnforge.data.images import (
    CheckedImage,
    UnreadableImage,
    check_image,
    describe_image,
    read_image,
    read_into,
)
from cnnforge.data.placement import Placing
from cnnforge.data.stored import ImageSource, open_source, source_path
from cnnforge.errors import DataError
from cnnforge.utils.names import printable
from cnnforge.utils.processors import usable_processors

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class ImageFiles:
    """Labelled samples that are image files on disk. `fetch` decodes the files that it needs.

    Args:
        files: N image files: their paths, or their places in other files.
        labels: (N,) integers.
        image_shape: (H, W, C) of every fetched image.
        ids: N texts: the id that the data give each image; `None` if they give none.
        placing: The way in which an image of another size fills a fetched image.
    """

    def __init__(
        self,
        files: Sequence[ImageSource],
        labels: np.ndarray,
        image_shape: tuple[int, int, int],
        ids: Sequence[str] | None = None,
        placing: Placing = "stretch",
    ) -> None:
        if len(files) != len(labels):
            raise ValueError(f"there are {len(files)} files and {len(labels)} labels")
        self.names: Sequence[str] = tuple(map(source_path, files))
        self._files = tuple(files)
        self.labels = np.ascontiguousarray(labels, dtype=np.int32)
        self.ids = None if ids is None else list(ids)
        self._image_shape = image_shape
        self._placing: Placing = placing

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.names)

    def resized(self, image_shape: tuple[int, int, int]) -> ImageFiles:
        """Return the same samples with another size of the images.

        Args:
            image_shape: (H, W, C) of every fetched image.
        """
        other = copy(self)
        other._image_shape = image_shape
        return other

    def encoded(self, index: int) -> bytes:
        """Return the unchanged content of an image file.

        Args:
            index: Index of the sample.

        Raises:
            DataError: If the file cannot be read.
        """
        try:
            with open_source(self._files[index]) as file:
                return file.read()
        except OSError as error:
            path = printable(self.names[index])
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error

    def original(self, index: int) -> np.ndarray:
        """Decode an image in its own size: (H, W, 3) uint8.

        Args:
            index: Index of the sample.

        Raises:
            DataError: If the file cannot be read.
        """
        return read_original(self._files[index])

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Decode images in several threads.

        Args:
            indices: (B,) integers in 0..N-1, in any order.

        Returns:
            (B, H, W, C) uint8.

        Raises:
            DataError: If a file cannot be read, for instance because it has been deleted.
        """
        indices = np.asarray(indices, dtype=np.intp)
        images = np.empty((len(indices), *self._image_shape), np.uint8)

        def decode(row: int) -> None:
            read_into(self._files[int(indices[row])], images[row], self._placing)

        try:
            in_parallel(decode, range(len(indices)))
        except UnreadableImage as error:
            raise DataError(
                f"{error}; it was changed or moved after the dataset was opened"
            ) from error
        return images


def read_original(path: ImageSource, channels: int = 3) -> np.ndarray:
    """Decode an image file in its own size, see `cnnforge.data.read_image`.

    Args:
        path: The file, or its place in another file.
        channels: 1 (grayscale) or 3 (RGB).

    Returns:
        (H, W, channels) uint8.

    Raises:
        UnreadableImage: If the file is not an image, or is damaged.
    """
    height, width = describe_image(path).size
    return read_image(path, (height, width, channels))


def check_files(files: Sequence[ImageSource]) -> list[CheckedImage | UnreadableImage]:
    """Decode every file once, in several threads.

    Args:
        files: Image files: their paths, or their places in other files.

    Returns:
        For each file, its properties, or the exception if it cannot be read.
    """

    def check(file: ImageSource) -> CheckedImage | UnreadableImage:
        try:
            return check_image(file)
        except UnreadableImage as error:
            return error

    return in_parallel(check, files)


def in_parallel(function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    """Apply a function to many items in a few threads.

    Threads run in parallel here, because Pillow releases the interpreter lock while it decodes.

    Args:
        function: Function of one item; it must not call `in_parallel` itself.
        items: The items.

    Returns:
        The results, in the order of the items.

    Raises:
        Exception: The error of the first item that failed.
    """
    workers = min(usable_processors(), 8)
    # Submit several items to the pool at once. For a small image, submitting takes longer than
    # decoding. But make several tasks for each thread, so that none is idle at the end.
    length = max(1, min(64, -(-len(items) // (8 * workers))))
    if workers == 1 or len(items) <= 1:
        return [function(item) for item in items]
    tasks = [items[start : start + length] for start in range(0, len(items), length)]
    parts = _pool(workers).map(lambda task: [function(item) for item in task], tasks)
    return [result for part in parts for result in part]


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="cnnforge-images")


# A forked process gets a copy of the pool object, but not its threads, so work that it submits
# would never be done. Clear the cache in the forked process, so that it makes a new pool.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
