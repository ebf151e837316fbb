"""Make a model that computes boxes from pixels, out of stock layers and operations of Keras only.

Such a model opens in a Keras without cnnforge, and can be converted to other formats. It decodes
the maps of a detector as `cnnforge.tasks.detection.decoding` does.
"""

from __future__ import annotations

from math import ceil, log2

import keras
from keras import ops

from cnnforge.tasks.detection.decoding import CANDIDATES
from cnnforge.tasks.detection.losses import MAX_LOG


def with_boxes(
    model: keras.Model,
    *,
    confidence: float,
    overlap: float,
    max_detections: int = CANDIDATES,
) -> keras.Model:
    """Add the decoding of its maps to a detector.

    Args:
        model: A detector of stock layers, from (N, H, W, C) pixels to one map or a list of maps.
        confidence: Min confidence of a box, from 0 to 1.
        overlap: A box is suppressed if its IoU with a better box of its class is this or more.
        max_detections: Max number of boxes per image.

    Returns:
        A model from the pixels to a dict of three arrays with K candidates per image, the best
        first. K is 100, or `max_detections` if this is more, or the number of all cells and classes
        if this is less. `boxes` is (N, K, 4) float32, `x1 y1 x2 y2` in pixels of the model's image.
        `confidences` is (N, K) float32. It is 0 for a candidate that is not a detection. `classes`
        is (N, K) int32.
    """
    height, width = model.input_shape[1:3]
    candidates = max(CANDIDATES, max_detections)
    parts = [_candidates(each, (height, width), candidates) for each in model.outputs]
    boxes, scores, classes = parts[0]
    if len(parts) > 1:
        boxes, scores, classes = (ops.concatenate(each, 1) for each in zip(*parts, strict=True))
        scores, best = ops.top_k(scores, min(candidates, scores.shape[1]))
        boxes = ops.take_along_axis(boxes, ops.expand_dims(best, -1), 1)
        classes = ops.take_along_axis(classes, best, 1)
    kept = ops.cast(scores >= confidence, "float32")
    kept = _not_suppressed(boxes, classes, kept, overlap)
    if max_detections < candidates:
        kept = kept * ops.cast(ops.cumsum(kept, 1) <= max_detections, "float32")
    outputs = {"boxes": boxes, "confidences": scores * kept, "classes": classes}
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_boxes")


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
    sides = ops.exp(ops.clip(sides, -MAX_LOG, MAX_LOG))
    x, y = (ops.cast(place, "float32") + 0.5 for place in (cell % columns, cell // columns))
    middle = ops.stack([x, y], -1)
    corners = [middle - sides[..., :2], middle + sides[..., 2:]]
    boxes = ops.concatenate(corners, -1) * float(stride)
    # Each coordinate is clipped to a number: an array of limits would be a further input in ONNX.
    clipped = [ops.clip(boxes[..., at : at + 1], 0.0, float(size[1 - at % 2])) for at in range(4)]
    return ops.concatenate(clipped, -1), scores, classes


def _not_suppressed(
    boxes: keras.KerasTensor, classes: keras.KerasTensor, kept: keras.KerasTensor, overlap: float
) -> keras.KerasTensor:
    """Suppress boxes that overlap a better one of their class. The loop over them is unrolled.

    Args:
        boxes: (N, K, 4), the best first.
        classes: (N, K).
        kept: (N, K) float32, 1 for each box that is confident enough, and 0 for the others.
        overlap: Min IoU with which a box is suppressed.

    Returns:
        (N, K) float32, 1 for each box that is left.
    """
    low = ops.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = ops.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    sides = ops.maximum(high - low, 0.0)
    common = sides[..., 0] * sides[..., 1]
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    union = areas[:, :, None] + areas[:, None, :] - common
    shares = common / ops.where(union > 0, union, ops.ones_like(union))
    # A comparison with == would compare the objects that stand for the tensors.
    same = ops.equal(classes[:, :, None], classes[:, None, :])
    close = ops.cast(ops.logical_and(shares >= overlap, same), "float32")
    for number in range(boxes.shape[1] - 1):
        # The boxes are sorted, so a box affects only those after it.
        later = close[:, number, number + 1 :] * kept[:, number : number + 1]
        kept = ops.concatenate([kept[:, : number + 1], kept[:, number + 1 :] * (1.0 - later)], 1)
    return kept
