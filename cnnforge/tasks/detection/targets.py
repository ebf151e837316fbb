"""Make the target maps of a detector from the boxes in its images.

The design is that of TTFNet (Z. Liu et al., "Training-Time-Friendly Network for Real-Time Object
Detection", 2020). Around the middle of each object, a Gaussian says how much a cell of the map is
the middle of an object of this class. All cells of the Gaussian learn the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnnforge.tasks.detection.objects import Objects

MIDDLE = -1.0
"""Value of the first C channels of a target map in the cell of the middle of an object."""

# The standard deviation of the Gaussian is this share of a side of the box, plus a part of a cell.
_SIGMA_PER_SIDE, _MIN_SIGMA = 0.09, 0.25
# The Gaussian is 0 below this value.
_CUT = 0.05
_REACH = float(np.sqrt(-2 * np.log(_CUT)))
# Max side of an object in strides of the map that learns it, if there are maps of larger strides.
_MAX_SIDE = 8
# The focal weight in a crowd region. There is neither an object nor background to learn.
_IN_CROWD = 1e-12


class Level(NamedTuple):
    """A map of a detector.

    Attributes:
        stride: Height and width of a cell, in pixels of the model's image.
        height: Number of cells in a column.
        width: Number of cells in a row.
    """

    stride: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """Name of the target map."""
        return f"stride_{self.stride}"


def levels_of(shapes: Sequence[Sequence[int]], image_size: tuple[int, int]) -> tuple[Level, ...]:
    """Return the levels of a model.

    Args:
        shapes: Shape of each output, (n, h, w, channels).
        image_size: Height and width of the model's images.

    Raises:
        ValueError: The shapes are not those of maps whose strides are different powers of two.
    """
    levels = []
    for shape in shapes:
        if len(shape) != 4 or not all(shape[1:3]):
            raise ValueError(f"outputs of shape {tuple(shape)}: expected maps (None, h, w, C + 4)")
        strides = {
            2 ** int(np.ceil(np.log2(size / cells)))
            for size, cells in zip(image_size, shape[1:3], strict=True)
        }
        stride = max(strides)
        if [-(-size // stride) for size in image_size] != list(shape[1:3]):
            raise ValueError(
                f"a map of {shape[1]} x {shape[2]} cells for images of {image_size[0]} x "
                f"{image_size[1]} pixels: expected ceil(size / stride) cells, with a stride that "
                "is a power of two"
            )
        levels.append(Level(stride, int(shape[1]), int(shape[2])))
    strides = [level.stride for level in levels]
    if not levels or strides != sorted(set(strides)):
        raise ValueError(f"maps with the strides {strides}: expected increasing strides")
    return tuple(levels)


def target_maps(objects: Objects, levels: Sequence[Level], classes: int) -> dict[str, np.ndarray]:
    """Make the target maps of a batch.

    Args:
        objects: The objects in n images.
        levels: The maps of the model. An object belongs to the first level whose stride is at least
            an eighth of its longer side, or else to the last level.
        classes: Number of classes C.

    Returns:
        A (n, h, w, C + 5) float32 map for each level, by its name. The first C channels have the
        weight of a cell as background in the focal loss, (1 - Gaussian)^4, or `MIDDLE`. The next
        four have the box that the cell learns, `x1 y1 x2 y2` in cells, and the last its weight. If
        Gaussians overlap, a cell learns the smaller box. The weights of a box that overlaps no
        other add up to log(1 + area in pixels) / 7, so that large boxes do not outvote small ones.
    """
    count = len(objects["labels"])
    images, places = np.nonzero((objects["labels"] >= 0) & ~objects["crowd"])
    boxes, labels = objects["boxes"][images, places], objects["labels"][images, places]
    # Later objects replace earlier ones.
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    order = np.argsort(-areas, kind="stable")
    images, boxes, labels, areas = images[order], boxes[order], labels[order], areas[order]
    longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    limits = np.array([_MAX_SIDE * level.stride for level in levels[:-1]])
    numbers = np.searchsorted(limits, longest)
    crowds = np.nonzero((objects["labels"] >= 0) & objects["crowd"])
    maps = {}
    for number, level in enumerate(levels):
        own = numbers == number
        made = np.zeros((count, level.height, level.width, classes + 5), np.float32)
        made[..., :classes] = 1
        _draw(made, level, images[own], boxes[own] / level.stride, labels[own], areas[own])
        for image, place in zip(*crowds, strict=True):
            box = objects["boxes"][image, place] / level.stride
            (left, top), (right, bottom) = np.floor(box[:2]), np.ceil(box[2:])
            region = made[image, int(top) : int(bottom), int(left) : int(right)]
            label = objects["labels"][image, place]
            np.minimum(region[..., label], _IN_CROWD, out=region[..., label])
        maps[level.name] = made
    return maps


def _draw(
    made: np.ndarray,
    level: Level,
    images: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    areas: np.ndarray,
) -> None:
    """Draw the objects of a level into its map, all cells of all objects at once.

    Args:
        made: (n, h, w, C + 5) float32.
        level: The level.
        images: (m,) index of the image of each object.
        boxes: (m, 4) float32, in cells.
        labels: (m,) classes.
        areas: (m,) areas in pixels.
    """
    if not len(images):
        return
    cells = np.array([level.width, level.height])
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.int64).clip(0, cells - 1)
    sigma = _SIGMA_PER_SIDE * (boxes[:, 2:] - boxes[:, :2]) + _MIN_SIGMA
    reach = (_REACH * sigma).astype(np.int64)
    low, high = (middle - reach).clip(0), (middle + reach + 1).clip(None, cells)
    # Number all cells of the windows around the middles, row by row, object by object.
    columns, rows = (high - low).T
    sizes = columns * rows
    owner = np.repeat(np.arange(len(images)), sizes)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    x = low[owner, 0] + place % columns[owner]
    y = low[owner, 1] + place // columns[owner]
    scale = (-0.5 / sigma**2).astype(np.float32)
    heat = np.exp(
        scale[owner, 0] * (x - middle[owner, 0]) ** 2
        + scale[owner, 1] * (y - middle[owner, 1]) ** 2
    ).astype(np.float32)
    inside = heat >= _CUT
    owner, x, y, heat = owner[inside], x[inside], y[inside], heat[inside]
    cell = (images[owner] * level.height + y) * level.width + x
    flat = made.reshape(-1, made.shape[-1])
    focal = np.where(heat == 1, np.float32(MIDDLE), (1 - heat) ** 4)
    np.minimum.at(made.reshape(-1), cell * made.shape[-1] + labels[owner], focal)
    total = np.bincount(owner, heat, len(images))
    weights = np.log1p(areas) / 7 / np.maximum(total, 1e-9)
    last = np.full(len(flat), -1)
    np.maximum.at(last, cell, owner)
    won = last[cell] == owner
    owner, cell, heat = owner[won], cell[won], heat[won]
    flat[cell, -5:-1] = boxes[owner]
    flat[cell, -1] = weights[owner] * heat
