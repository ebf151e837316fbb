"""Predict large images in parts, so that small objects keep their size.

A large image is reduced to the size of the model, and a small object in it may then have too few
pixels. So the model also gets overlapping parts of the image in full resolution. The task merges
the predictions for the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cnnforge.data import UnreadableImage, printable
from cnnforge.data.files import read_original
from cnnforge.data.prefetch import MAX_BYTES
from cnnforge.errors import UsageError
from cnnforge.prediction.arguments import fitted
from cnnforge.prediction.predictor import Predictor
from cnnforge.tasks import BoxOutput, Row, Source, Task, prediction_options

Tile = tuple[int, int, int, int]


def box_output_of(task: Task, option: str) -> BoxOutput:
    """Return what writes and merges the boxes of a task.

    Args:
        task: The task.
        option: Option that needs it, for the error message.

    Raises:
        UsageError: The task does not predict boxes.
    """
    if task.box_output is None:
        raise UsageError(
            f"{option} is for models that find objects, and the model of this run has the task "
            f"{type(task).__name__}: leave it out"
        )
    return task.box_output


def tiles_of(size: tuple[int, int], shape: tuple[int, int]) -> list[Tile]:
    """Divide an image into parts of the model's image size, and add the whole image.

    Neighbouring parts overlap by half of their size or a little more. So an object of up to half of
    this size is whole in at least one part.

    Args:
        size: Height and width of the image.
        shape: Height and width of the model's images.

    Returns:
        Rectangles `x1 y1 x2 y2` in pixels. The first one is the whole image; it is the only one if
        the image is not larger than the model's images.
    """
    whole = (0, 0, size[1], size[0])
    if size[0] <= shape[0] and size[1] <= shape[1]:
        return [whole]
    rows, columns = (_intervals(*each) for each in zip(size, shape, strict=True))
    return [whole, *((x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns)]


def _intervals(length: int, part: int) -> list[tuple[int, int]]:
    if length <= part:
        return [(0, length)]
    count = 1 + -(-(length - part) // max(1, part // 2))
    starts = [(length - part) * number // (count - 1) for number in range(count)]
    return [(start, start + part) for start in starts]


def predict_tiled(predictor: Predictor, paths: Sequence[str], **options: Any) -> Iterator[Row]:
    """Predict image files with their parts, and return rows of a prediction table.

    Args:
        predictor: The trained model.
        paths: The files.
        options: Prediction options of the task.

    Yields:
        One row per path, in the order of the paths. The row of an unreadable file contains the
        reason instead of a prediction.

    Raises:
        UsageError: The task cannot merge predictions, does not have an option, or a value is not
            valid.
    """
    _ = box_output_of(predictor.task, "tile")
    values = prediction_options(predictor.task, options)
    for path in paths:
        name = printable(path)
        try:
            image = read_original(path, predictor.image_shape[2])
        except UnreadableImage as error:
            yield predictor.task.unread_row(name, error.reason)
            continue
        yield predict_in_parts(predictor, image, name, values)


def predict_in_parts(
    predictor: Predictor, image: np.ndarray, name: str, values: Mapping[str, Any]
) -> Row:
    """Predict an image with its parts.

    Args:
        predictor: The trained model.
        image: (H, W, C) uint8 or float32 of any size, with the channels of the model's images.
        name: Name of the image.
        values: Value of each prediction option of the task, by name.

    Returns:
        The row of the image.
    """
    task, shape = predictor.task, predictor.image_shape
    merger = box_output_of(task, "tile")
    size = image.shape[0], image.shape[1]
    tiles = tiles_of(size, shape[:2])
    together = max(1, min(512, MAX_BYTES // int(np.prod(shape))))
    parts: list[Row] = []
    for first in range(0, len(tiles), together):
        group = tiles[first : first + together]
        cut = [image[y1:y2, x1:x2] for x1, y1, x2, y2 in group]
        images, sizes = zip(*(fitted(0, each, shape, task.placing) for each in cut), strict=True)
        sources = [Source(name, each) for each in sizes]
        parts += task.rows(predictor.predict_images(np.stack(images)), sources, None, values)
    return merger.merged(parts, tiles, Source(name, size), values)
