"""Functions that the commands `cnnforge data check` and `show` share: they draw contact sheets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cnnforge.errors import CnnforgeError

if TYPE_CHECKING:
    import numpy as np

    from cnnforge.data import Dataset

_THUMBNAIL = 84


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a sheet; after the block, rename it and say where the sheet is.

    Args:
        path: The file.

    Raises:
        CnnforgeError: If it cannot be written.
    """
    from cnnforge.cli import _render
    from cnnforge.utils.atomic_files import atomic_path

    try:
        with atomic_path(path) as temporary:
            yield temporary
    except OSError as error:
        raise CnnforgeError(
            f"the sheet {path} cannot be written: {error.strerror or error}; choose another file"
        ) from error
    _render.message(f"sheet: {path}")


def some_of(rows: np.ndarray, count: int) -> np.ndarray:
    """Choose some of the indices of samples, at equal steps.

    Args:
        rows: The indices.
        count: Max number of the chosen ones.
    """
    if len(rows) <= count:
        return rows
    return rows[[place * len(rows) // count for place in range(count)]]


def thumbnails(dataset: Dataset, rows: np.ndarray, side: int = _THUMBNAIL) -> list[np.ndarray]:
    """Read images of a dataset that was opened to inspect it, with their own aspect ratio.

    Args:
        dataset: The dataset.
        rows: Indices of samples of `train`.
        side: Max height and width of an image that is reduced, in pixels.

    Returns:
        An array (H, W, C) uint8 for each image.
    """
    from cnnforge.data import ImageFiles

    samples, inspection = dataset.train, dataset.inspection
    if not isinstance(samples, ImageFiles) or inspection is None or not inspection.checked:
        return list(samples.fetch(rows))
    images = []
    for row in rows.tolist():
        height, width = inspection.checked[row].size
        scale = min(1.0, side / max(height, width))
        shape = max(1, round(height * scale)), max(1, round(width * scale)), 3
        images += list(samples.resized(shape).fetch(rows[rows == row][:1]))
    return images


def say_latin(replaced: Sequence[str]) -> None:
    """Print a note about names that a sheet shows in Latin letters.

    Args:
        replaced: The names.
    """
    from cnnforge.cli import _render
    from cnnforge.data import quoted

    if replaced:
        more = f" and {len(replaced) - 3} more" if len(replaced) > 3 else ""
        _render.message(
            f"note: no installed font has the letters of {quoted(replaced[:3])}{more}: the sheet "
            "has Latin letters instead"
        )
