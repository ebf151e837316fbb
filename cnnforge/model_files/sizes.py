"""Limit the memory that a small file can ask for."""

from __future__ import annotations

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


def readable(size: int) -> str:
    """Return a number of bytes for a message, such as `"300 MB"`."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"
