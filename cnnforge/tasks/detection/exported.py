"""Make a model that computes boxes from pixels, out of stock layers and operations of Keras only.

Such a model opens in a Keras without cnnforge, and can be converted to other formats. It decodes
the maps of a detector as `cnnforge.tasks.detection.decoding` does.
"""

from __future__ import annotations

from math import ceil, log2

import keras
from keras import ops

MAX_CANDIDATES = 100
"""Number of boxes per image, the best ones, of which those that overlap are suppressed."""

_MAX_LOG = 4.0


def with_boxes(
    model: keras.Model,
    *,
    confidence: float,
    overlap: float,
    candidates: int = MAX_CANDIDATES,
) -> keras.Model:
    """Add the decoding of its maps to a detector.

    Args:
        model: A detector of stock layers, from (N, H, W, C) pixels to one map or a list of maps.
        confidence: Min confidence of a box, from 0 to 1.
        overlap: A box is suppressed if its IoU with a better box of its class is this or more.
        candidates: Number of boxes per image that are considered.

    Returns:
        A model from the pixels to a dict of three arrays with K boxes per image, the best first: K
        is `candidates`, or the number of all cells and classes if this is less. `boxes` is
        (N, K, 4) float32, `x1 y1 x2 y2` in pixels of the model's image, `confidences` (N, K)
        float32, and `classes` (N, K) int32. A box that is suppressed, or whose confidence is too
        low, has the confidence 0.
    """
    height, width = model.input_shape[1:3]
    parts = [_candidates(each, (height, width), candidates) for each in model.outputs]
    boxes, scores, classes = (
        ops.concatenate(each, 1) if len(each) > 1 else each[0] for each in zip(*parts, strict=True)
    )
    if len(parts) > 1:
        scores, best = ops.top_k(scores, min(candidates, scores.shape[1]))
        boxes = ops.take_along_axis(boxes, ops.expand_dims(best, -1), 1)
        classes = ops.take_along_axis(classes, best, 1)
    kept = ops.cast(scores >= confidence, "float32")
    kept = kept * _not_suppressed(boxes, classes, kept, overlap)
    outputs = {"boxes": boxes, "confidences": scores * kept, "classes": classes}
    return keras.Model(model.inputs, outputs, name=f"{model.name}_boxes")


def _candidates(
    output: keras.KerasTensor, size: tuple[int, int], count: int
) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]:
    """Return the best boxes of a map.

    Args:
        output: (N, h, w, classes + 4).
        size: Height and width of the image.
        count: Max number of boxes.

    Returns:
        Boxes (N, k, 4), confidences (N, k) and classes (N, k).
    """
    rows, columns, depth = output.shape[1:]
    number = depth - 4
    stride = 2 ** ceil(log2(size[0] / rows))
    logits = output[..., :number]
    # A peak is as high as the highest of the 3 x 3 cells around it.
    pooling = keras.layers.MaxPooling2D(
        3, strides=1, padding="same", data_format="channels_last", name=f"peaks{stride}"
    )
    heat = ops.where(logits >= pooling(logits), ops.sigmoid(logits), ops.zeros_like(logits))
    flat = ops.reshape(heat, (-1, rows * columns * number))
    scores, index = ops.top_k(flat, min(count, rows * columns * number))
    cell, classes = index // number, index % number
    sides = ops.reshape(output[..., number:], (-1, rows * columns, 4))
    sides = ops.take_along_axis(sides, ops.expand_dims(cell, -1), 1)
    sides = ops.exp(ops.clip(sides, -_MAX_LOG, _MAX_LOG))
    x, y = (ops.cast(place, "float32") + 0.5 for place in (cell % columns, cell // columns))
    middle = ops.stack([x, y], -1)
    corners = [middle - sides[..., :2], middle + sides[..., 2:]]
    boxes = ops.concatenate(corners, -1) * float(stride)
    limits = ops.convert_to_tensor([size[1], size[0]] * 2, "float32")
    return ops.minimum(ops.maximum(boxes, 0.0), limits), scores, classes


def _not_suppressed(
    boxes: keras.KerasTensor, classes: keras.KerasTensor, kept: keras.KerasTensor, overlap: float
) -> keras.KerasTensor:
    """Return 1 for each box that no better box of its class suppresses, (N, K), and 0 for others.

    The loop over the boxes is unrolled: a box that is itself suppressed suppresses nothing.
    """
    low = ops.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = ops.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    sides = ops.maximum(high - low, 0.0)
    common = sides[..., 0] * sides[..., 1]
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    union = areas[:, :, None] + areas[:, None, :] - common
    shares = common / ops.where(union > 0, union, ops.ones_like(union))
    same = classes[:, :, None] == classes[:, None, :]
    close = ops.cast(ops.logical_and(shares >= overlap, same), "float32")
    for number in range(boxes.shape[1] - 1):
        # The boxes are sorted, so a box affects only those after it.
        later = close[:, number, number + 1 :] * kept[:, number : number + 1]
        kept = ops.concatenate([kept[:, : number + 1], kept[:, number + 1 :] * (1.0 - later)], 1)
    return kept
