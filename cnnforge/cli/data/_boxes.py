"""Draw boxes on the contact sheets of `cnnforge data check` and `show`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from cnnforge.data import Dataset
    from cnnforge.reporting.contact_sheet import SheetRow

CELL = 190
"""Height and width of an image with boxes on a sheet, in pixels."""

_OWN, _OTHER, _EDGE = (255, 140, 40), (190, 190, 190), (0, 0, 0)


def has_boxes(dataset: Dataset) -> bool:
    """Return whether the samples of a dataset have boxes."""
    return hasattr(dataset.train, "boxes")


def boxed(image: np.ndarray, boxes: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Draw boxes on an image.

    Args:
        image: (H, W, C) uint8.
        boxes: (k, 4) `x1 y1 x2 y2` in pixels of the image.
        own: (k,) bool: the boxes that are orange. The others are gray.

    Returns:
        (H', W', 3) uint8, of which the longer side fills a cell of the sheet.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    factor = CELL / max(picture.size)
    method = Image.Resampling.BICUBIC
    if factor >= 2:
        # Show the pixels of a small image as squares.
        factor, method = int(factor), Image.Resampling.NEAREST
    size = [max(1, round(side * factor)) for side in picture.size]
    picture = picture.resize((size[0], size[1]), method)
    canvas = ImageDraw.Draw(picture)
    for number in np.argsort(own, kind="stable").tolist():
        left, top, right, bottom = (boxes[number] * factor).round().astype(int).tolist()
        # The lines are outside of the box, so that they do not hide a small object. A dark edge
        # separates them from a bright background.
        width = 2 if own[number] else 1
        for color, line in ((_EDGE, width + 1), (_OWN if own[number] else _OTHER, width)):
            corners = left - line, top - line, right - 1 + line, bottom - 1 + line
            canvas.rectangle(corners, outline=color, width=line)
    return np.asarray(picture)


def rows_with(labels: Sequence[np.ndarray], label: int) -> np.ndarray:
    """Return the indices of the images that have an object of a class.

    Args:
        labels: The labels of the objects in each image.
        label: Index of the class.
    """
    import numpy as np

    return np.flatnonzero([bool((own == label).any()) for own in labels])


def original_rows(dataset: Dataset, label: int, count: int) -> SheetRow:
    """Return a row of a sheet: original images with objects of a class.

    Args:
        dataset: A dataset that was opened to inspect it.
        label: Index of the class; -1 means images without objects.
        count: Max number of images.
    """
    import numpy as np

    from cnnforge.cli.data._sheets import some_of, thumbnails
    from cnnforge.reporting.contact_sheet import SheetRow

    samples: Any = dataset.train
    if label < 0:
        found = np.flatnonzero([not len(own) for own in samples.labels])
        name, details = "no object", "1 image" if len(found) == 1 else f"{len(found):,} images"
    else:
        found = rows_with(samples.labels, label)
        total = sum(int((own == label).sum()) for own in samples.labels)
        name = dataset.classes[label]
        details = "1 object" if total == 1 else f"{total:,} objects"
    chosen = some_of(found, count)
    images = []
    for row, image in zip(chosen.tolist(), thumbnails(dataset, chosen, CELL), strict=True):
        scale = np.array(image.shape[:2]) / samples.sizes[row]
        boxes = samples.boxes[row] * np.array([*scale[::-1], *scale[::-1]])
        images.append(boxed(image, boxes, samples.labels[row] == label))
    return SheetRow(name, images, details)


def read_boxes(samples: Any, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Read images as a network sees them, with boxes and labels.

    Args:
        samples: Samples with boxes.
        rows: Indices of some of them.

    Returns:
        For each image (H, W, C) uint8, the boxes (k, 4) in pixels of it, and the labels (k,).
    """
    from cnnforge.data import letterbox

    found = []
    for row, image in zip(rows.tolist(), samples.fetch(rows), strict=True):
        height, width = samples.sizes[row]
        placement = letterbox((height, width), image.shape[:2])
        found.append((image, placement.to_model(samples.boxes[row]), samples.labels[row]))
    return found
