"""Describe images that are stored inside another file, such as an archive."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BufferedReader, BytesIO
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cnnforge.data.dataset import SkippedFile

_MAX_BYTES = 2**30
# Max size of a file that is read into memory at once, in bytes.
_MAX_CONTENT = 2**26


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


class _Content(NamedTuple):
    """Bytes that are read as a file is."""

    content: bytes

    def __call__(self, offset: int, size: int) -> bytes:
        return self.content[offset : offset + size]


def stored_content(path: str, content: bytes) -> StoredImage:
    """Return an image file whose content is in memory.

    Args:
        path: Name for messages.
        content: The content of the file.
    """
    return StoredImage(path, _Content(content), 0, len(content))


class PicturePart(NamedTuple):
    """Some consecutive images of a dataset. Another process can read them.

    Attributes:
        images: Number of images.
        read: Function that yields each image: an `ImageSource`, or a `SkippedFile` if it is
            missing. `pickle` must be able to write the function.
    """

    images: int
    read: Callable[[], Iterator[ImageSource | SkippedFile]]


class PictureParts(NamedTuple):
    """The images of a dataset in parts, which several processes read at the same time.

    Attributes:
        name: Name of the dataset.
        parts: The parts, in the order of the images.
        notes: Messages for the user, for instance about images that are left out, one line each.
    """

    name: str
    parts: Sequence[PicturePart]
    notes: Sequence[str] = ()


ImageSource = str | os.PathLike[str] | StoredImage
"""An image file: its path, or its place in another file."""


def source_path(source: ImageSource) -> str:
    """Return the path of an image file, for messages."""
    return source.path if isinstance(source, StoredImage) else os.fspath(source)


def open_source(path: ImageSource) -> BufferedReader | BytesIO:
    """Open an image file.

    Raises:
        OSError: If it cannot be read, or is not a regular file.
        ValueError: See `StoredImage.open`.
    """
    return path.open() if isinstance(path, StoredImage) else open(path, "rb", opener=_open_regular)


def read_source(path: ImageSource) -> bytes | None:
    """Read an image file into memory. Return `None` for a large one, or if it cannot be read."""
    try:
        if isinstance(path, StoredImage):
            return path.open().getvalue()
        descriptor = _open_regular(os.fspath(path), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            size = os.fstat(descriptor).st_size
            return os.read(descriptor, size) if size <= _MAX_CONTENT else None
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None


def _open_regular(path: str, flags: int) -> int:
    # The path may be a named pipe. Without O_NONBLOCK, opening a pipe to which no process writes
    # would wait forever.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


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
