"""Divide the images of a batch among workers and among the devices of a worker."""

from __future__ import annotations


def part(count: int, index: int, parts: int) -> tuple[int, int]:
    """Return the first image of a part, and the one after its last image.

    The sizes of the parts differ by at most one. If there are fewer images than parts, some parts
    are empty.

    Args:
        count: Number of images.
        index: Index of the part, from 0.
        parts: Number of parts.
    """
    return count * index // parts, count * (index + 1) // parts


def part_to_read(count: int, index: int, parts: int) -> tuple[int, int]:
    """Return the images that are read for a part: the part, or the first image if it is empty.

    A model does not compute with no images at all. So it computes with one, and the result of that
    one is not used.

    Args:
        count: Number of images, at least 1.
        index: Index of the part, from 0.
        parts: Number of parts.
    """
    start, stop = part(count, index, parts)
    return (start, stop) if stop > start else (0, 1)
