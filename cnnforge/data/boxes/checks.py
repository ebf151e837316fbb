"""Check the boxes of pictures: leave out those without area, and clip those that leave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnnforge.data.dataset import BoxFinding

# Numbers with few digits may lie this far outside of a picture, in pixels. These boxes are clipped
# too, but not reported.
_ROUNDING = 0.01

CLIPPED = "the box leaves the picture, and is clipped"
OUTSIDE = "the box is outside of the picture"
NOT_FINITE = "the box has a number that is not finite"
NO_AREA = "the box has no area"
NEGATIVE = "the box has a negative width or height"
_CAUSES = (CLIPPED, OUTSIDE, NEGATIVE, NO_AREA, NOT_FINITE)


def check_boxes(
    corners: np.ndarray, sizes: np.ndarray, places: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[BoxFinding]]:
    """Clip boxes to their pictures, and find those that cannot be used.

    Args:
        corners: (M, 4) float64: `x1 y1 x2 y2` in pixels of the picture; they may be NaN.
        sizes: (M, 2) integers: height and width of the picture of each box.
        places: M texts: where the data have each box.

    Returns:
        Three values: the clipped boxes, (M, 4) float64; (M,) bool, whether each one can be used;
        and what is wrong, in the order of the boxes.
    """
    limits = np.concatenate([sizes[:, ::-1], sizes[:, ::-1]], axis=1).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        clipped = np.clip(corners, 0, limits)
        moved = np.abs(clipped - corners).max(axis=1, initial=0)
        sides = corners[:, 2:] - corners[:, :2]
        inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        # The most serious cause of a box counts, so it comes last.
        conditions = (
            inside & (moved > _ROUNDING),
            ~inside,
            (sides < 0).any(axis=1),
            ~(sides < 0).any(axis=1) & (sides == 0).any(axis=1),
            ~np.isfinite(corners).all(axis=1),
        )
    cause = np.full(len(corners), -1)
    for number, condition in enumerate(conditions):
        cause[condition] = number
    findings = [
        BoxFinding(
            places[row],
            _CAUSES[cause[row]],
            f"{_numbers(corners[row])} in a picture of {sizes[row, 1]}x{sizes[row, 0]} pixels",
            left_out=bool(cause[row] > 0),
        )
        for row in np.flatnonzero(cause >= 0).tolist()
    ]
    return clipped, cause <= 0, findings


def turned(corners: np.ndarray, size: tuple[int, int], orientation: int) -> np.ndarray:
    """Rotate boxes as the orientation (EXIF) rotates their picture.

    Args:
        corners: (k, 4) boxes in pixels of the picture as it is stored.
        size: Height and width of the picture as it is stored.
        orientation: The orientation, 1 to 8.

    Returns:
        (k, 4) boxes in pixels of the upright picture.
    """
    height, width = size
    x, y = corners[:, ::2], corners[:, 1::2]
    x, y = {
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }.get(orientation, (x, y))
    pairs = np.stack([x, y], axis=-1)
    # A mirrored left side is the right one. A box of negative size must stay one.
    flipped = np.stack([corners[:, 2] < corners[:, 0], corners[:, 3] < corners[:, 1]], axis=1)
    if orientation >= 5:
        flipped = flipped[:, ::-1]
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    return np.concatenate([np.where(flipped, high, low), np.where(flipped, low, high)], axis=1)


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.6g}" for value in values)
