"""Compute the fingerprint of a dataset, and count exact copies of images in its splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """The data of a split (training or validation) from which the fingerprint is computed.

    A run keeps names and digests, so that its validation images can be found again.

    Attributes:
        labels: (N,) integers.
        names: Name of each sample. A name does not contain the folder of the data, so that the
            fingerprint stays the same if the data is moved.
        digests: N sha256 digests of the image files or of their pixels, 32 bytes each.
    """

    labels: np.ndarray
    names: Sequence[str]
    digests: Sequence[bytes]


def fingerprint(
    classes: Sequence[str], image_shape: tuple[int, int, int], train: Split, validation: Split
) -> str:
    """Compute a digest that changes if the data or their split into training and validation change.

    Args:
        classes: The names of the classes.
        image_shape: (H, W, C).
        train: The samples to train on, in their order.
        validation: The samples to validate on, in their order.

    Returns:
        64 hexadecimal digits.
    """
    total = hashlib.sha256()

    def add(content: bytes) -> None:
        # Add the length first. Otherwise ("ab", "c") and ("a", "bc") would have the same digest.
        total.update(len(content).to_bytes(8, "little"))
        total.update(content)

    add(repr(tuple(int(n) for n in image_shape)).encode())
    for texts in (classes, train.names, validation.names):
        add(b"".join(hashlib.sha256(_encoded(text)).digest() for text in texts))
    for split in (train, validation):
        add(np.asarray(split.labels).astype("<i8").tobytes())
        add(b"".join(split.digests))
    return total.hexdigest()


def duplicates_note(
    train: Sequence[bytes], validation: Sequence[bytes], test: Sequence[bytes] = ()
) -> tuple[str, ...]:
    """Describe how many validation and test images have an exact copy among the training images.

    Args:
        train: The digests of the training images.
        validation: The digests of the validation images.
        test: The digests of the test images.

    Returns:
        A tuple of one note; empty if there are no copies.
    """
    known = set(train)
    copies, parts = 0, []
    for name, digests in (("validation", validation), ("test", test)):
        if count := sum(digest in known for digest in digests):
            copies += count
            parts.append(f"{count} of {len(digests)} {name} images")
    if not parts:
        return ()
    are = "is an exact copy" if copies == 1 else "are exact copies"
    return (
        f"{' and '.join(parts)} {are} of a training image: the scores on them say nothing about "
        "new images; --drop-duplicates of train leaves copies out",
    )


def _encoded(text: str) -> bytes:
    # A file name may contain bytes that are not valid UTF-8. `surrogateescape` keeps these bytes
    # unchanged instead of raising an error.
    return text.encode("utf-8", "surrogateescape")
