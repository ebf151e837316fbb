"""Limit the memory that a small file can ask for."""

from __future__ import annotations

import io
import zipfile

_FREE = 64 << 20
_RATIO = 20


def expands_too_much(size: int, stored: int) -> bool:
    """Return whether content is much larger than the bytes that hold it.

    Keras and NumPy do not compress weights, and real weights can hardly be compressed.

    Args:
        size: Bytes in memory.
        stored: Bytes in the file.
    """
    return size > _FREE + _RATIO * stored


def most_memory(stored: int) -> int:
    """Return the max bytes of memory for reading content, with room for the library.

    Args:
        stored: Bytes in the file.
    """
    return 512 * 2**20 + _RATIO * stored


def check_lengths(archive: zipfile.ZipFile) -> None:
    """Check that no member of an archive is longer than the archive.

    Raises:
        ValueError: The directory of the archive gives a length that is not possible.
    """
    assert archive.fp is not None
    length = archive.fp.seek(0, io.SEEK_END)
    for member in archive.infolist():
        if member.compress_size > length:
            raise ValueError(
                f"{member.filename[:80]!r} has {readable(member.compress_size)} in a file of "
                f"{readable(length)}"
            )


def readable(size: int) -> str:
    """Return a number of bytes for a message, such as `"300 MB"`."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"
