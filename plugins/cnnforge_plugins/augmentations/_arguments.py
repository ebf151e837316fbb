"""Read the arguments of augmentations, and change uint8 images."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np

from cnnforge.data.files import in_parallel

# Min number of values of an image from which threads are faster than one call for all images.
THREADED = 64 * 64 * 3

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


def number(argument: str | None, default: float, low: float, high: float, what: str) -> float:
    """Read a number.

    Args:
        argument: Text of the argument; `None` if the user gave none.
        default: Result for `None`.
        low: Lower bound, inclusive.
        high: Upper bound, inclusive.
        what: Description of the number for the error message, such as `"a fraction"`.

    Raises:
        ValueError: The argument is not a number between the bounds.
    """
    if argument is None:
        return default
    try:
        value = float(argument)
    except ValueError:
        value = np.nan
    if not low <= value <= high:
        raise ValueError(
            f"expected {what} from {low:g} to {high:g}, such as {default:g}, got {argument!r}"
        )
    return value


def refuse(argument: str | None) -> None:
    """Refuse an argument.

    Raises:
        ValueError: `argument` is not `None`.
    """
    if argument is not None:
        raise ValueError(f"it takes no argument, got {argument!r}")


def per_image(values: np.ndarray) -> np.ndarray:
    """Return (N,) values as (N, 1, 1, 1) float32, to compute with images."""
    return values.astype(np.float32)[:, np.newaxis, np.newaxis, np.newaxis]


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Round floats to the nearest integers, limit them to 0..255, and return them as uint8.

    Args:
        values: Floats of any shape. They are overwritten.
    """
    np.clip(np.rint(values, out=values), 0, 255, out=values)
    return values.astype(np.uint8)


def by_image(change: Change) -> Change:
    """Make a function of a batch call itself for each image, in threads, if the images are large.

    Args:
        change: Function of images, (N, H, W, C) uint8, and (N,) values, which returns as many
            images. The result for an image must not depend on the others.
    """

    @wraps(change)
    def changed(images: np.ndarray, values: np.ndarray) -> np.ndarray:
        if not len(images) or images[0].size < THREADED:
            return change(images, values)
        result = np.empty_like(images)

        def change_one(index: int) -> None:
            one = slice(index, index + 1)
            result[one] = change(images[one], values[one])

        in_parallel(change_one, range(len(images)))
        return result

    return changed
