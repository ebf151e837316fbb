"""The loss of a detector, written once for `keras.ops` and for NumPy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

MAX_LOG = 6.0
"""Max absolute value of a log distance. Larger ones are clipped, so that no distance overflows."""
BOX_WEIGHT = 5.0
"""Weight of the box loss in the loss."""
# Keeps the quotients of areas finite.
_MIN_AREA = 1e-6


def level_losses(ops: Any, target: Any, output: Any, classes: int) -> tuple[Any, Any, Any]:
    """Compute the losses of one map, summed over its cells.

    The focal loss is that of CenterNet (X. Zhou et al., "Objects as Points", 2019) with alpha 2 and
    beta 4. It is computed from the logits, so it is finite for all of them. The box loss is
    1 - GIoU (H. Rezatofighi et al., "Generalized Intersection over Union", 2019), weighted.

    Args:
        ops: `keras.ops` or `NUMPY`.
        target: (n, h, w, C + 5) float32, see `cnnforge.tasks.detection.targets.target_maps`.
        output: (n, h, w, C + 4) float32: C logits, then the logarithms of the distances from the
            centre of the cell to the left, top, right and bottom of the box, in cells.
        classes: Number of classes C.

    Returns:
        Three tensors (n,) float32: the focal loss, the box loss, and the number of objects.
    """
    height, width = (int(side) for side in output.shape[1:3])
    # The gradient of a split is one concatenation. Those of slices are padded and added, which
    # takes longer than the losses themselves.
    logits, distances = ops.split(output, [classes], axis=-1)
    weight, boxes = ops.split(target, [classes], axis=-1)
    # In the cell of a middle, the loss of p is that of 1 - p elsewhere.
    middle = ops.cast(weight < 0, "float32")
    logits = logits * (1 - 2 * middle)
    focal = ops.abs(weight) * ops.square(ops.sigmoid(logits)) * ops.softplus(logits)
    return (
        ops.sum(focal, (1, 2, 3)),
        ops.sum(_box_losses(ops, boxes, distances, height, width), (1, 2)),
        ops.sum(middle, (1, 2, 3)),
    )


def _box_losses(ops: Any, boxes: Any, distances: Any, height: int, width: int) -> Any:
    """Return the weighted 1 - GIoU of each cell, (n, h, w).

    Args:
        ops: See `level_losses`.
        boxes: (n, h, w, 5), the true boxes in cells, and their weights.
        distances: (n, h, w, 4), the logarithms of the distances.
        height: Number of rows h.
        width: Number of columns w.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    x, y = (ops.convert_to_tensor(values) for values in (x, y))
    # Values of the same kind are consecutive after this, so all that follows is faster.
    distances = ops.transpose(distances, (3, 0, 1, 2))
    left, top, right, bottom = ops.unstack(ops.exp(ops.clip(distances, -MAX_LOG, MAX_LOG)), 4)
    u1, v1, u2, v2, weight = ops.unstack(ops.transpose(boxes, (3, 0, 1, 2)), 5)
    x1, y1, x2, y2 = x - left, y - top, x + right, y + bottom
    across = ops.maximum(ops.minimum(x2, u2) - ops.maximum(x1, u1), 0.0)
    down = ops.maximum(ops.minimum(y2, v2) - ops.maximum(y1, v1), 0.0)
    common = across * down
    union = (left + right) * (top + bottom) + (u2 - u1) * (v2 - v1) - common + _MIN_AREA
    hull = (ops.maximum(x2, u2) - ops.minimum(x1, u1)) * (
        ops.maximum(y2, v2) - ops.minimum(y1, v1)
    ) + _MIN_AREA
    # 1 - GIoU = 1 - common / union + (hull - union) / hull
    return weight * (2 - common / union - union / hull)


def total(ops: Any, parts: list[tuple[Any, Any, Any]]) -> tuple[Any, Any]:
    """Add the losses of all maps, and divide them by the number of objects in the image.

    Args:
        ops: `keras.ops` or `NUMPY`.
        parts: Results of `level_losses`.

    Returns:
        Two tensors (n,) float32: the focal loss, and the box loss times its weight.
    """
    focal, boxes, count = (sum(part[1:], part[0]) for part in zip(*parts, strict=True))
    count = ops.maximum(count, 1.0)
    return focal / count, BOX_WEIGHT * boxes / count


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


NUMPY = SimpleNamespace(
    abs=np.abs,
    cast=lambda array, dtype: array.astype(dtype),
    clip=np.clip,
    convert_to_tensor=np.asarray,
    exp=np.exp,
    maximum=np.maximum,
    minimum=np.minimum,
    sigmoid=_sigmoid,
    softplus=_softplus,
    split=np.split,
    square=np.square,
    sum=np.sum,
    transpose=np.transpose,
    unstack=lambda array, count: list(array),
)
"""The functions of `keras.ops` that the losses need, in NumPy."""
