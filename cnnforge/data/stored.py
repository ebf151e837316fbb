"""Describe images that are stored inside another file, such as an archive."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import NamedTuple

_MAX_BYTES = 2**30


class StoredImage(NamedTuple):
    """An image file that is a part of another file.

    Attributes:
        path: Path of the other file and name of the image in it, for messages.
        read: Function from an offset and a size in bytes to these bytes of the other file. It must
            work in several threads at once.
        offset: Position of the first byte in the other file.
        size: Size of the image file in bytes.
    """

    path: str
    read: Callable[[int, int], bytes]
    offset: int
    size: int

    def open(self) -> BytesIO:
        """Read the image file into memory.

        Raises:
            OSError: If the other file cannot be read.
            ValueError: If the image file has more than 1 GiB.
        """
        if self.size > _MAX_BYTES:
            raise ValueError(f"{self.size} bytes, at most {_MAX_BYTES} are read")
        return BytesIO(self.read(self.offset, self.size))


ImageSource = str | os.PathLike[str] | StoredImage
"""An image file: its path, or its place in another file."""


def source_path(source: ImageSource) -> str:
    """Return the path of an image file, for messages."""
    return source.path if isinstance(source, StoredImage) else os.fspath(source)


def reader_of(path: str) -> Callable[[int, int], bytes]:
    """Return a function from an offset and a size in bytes to these bytes of a file.

    The file is opened for each call, so that any number of files can be in use.

    Args:
        path: The file.
    """
    return partial(_read, path)


def _read(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)
