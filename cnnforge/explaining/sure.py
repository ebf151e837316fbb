"""Find similar training pictures, and the part of a picture that a value depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnnforge.explaining.network import Network
from cnnforge.explaining.steps import Replay, Step, run

_MULTIPLICATIONS = 40e9
"""About 10 seconds of work on one core."""
_MIN_PICTURES, _MAX_PICTURES = 100, 5000
_BATCH = 256


@dataclass(frozen=True)
class Neighbor:
    """A training picture that is similar to a picture.

    Attributes:
        index: Index of the sample.
        similarity: Cosine of the angle between the features of both pictures, from -1 to 1.
        image: (H, W, C) uint8.
        same: Whether all pixels are equal.
    """

    index: int
    similarity: float
    image: np.ndarray
    same: bool


def feature_step(steps: Sequence[Step]) -> int:
    """Return the index of the step whose value the last layer with weights reads."""
    weighted = [it for it in steps if it.activation is None and getattr(it.layer, "weights", ())]
    return weighted[-1].inputs[0] if weighted else 0


def number_of_pictures(available: int, multiplications: int) -> int:
    """Return how many training pictures are compared: fewer for a large network.

    Args:
        available: Number of training pictures.
        multiplications: Multiplications of the network for one picture.
    """
    limit = int(_MULTIPLICATIONS / max(1, multiplications))
    return min(available, max(_MIN_PICTURES, min(_MAX_PICTURES, limit)))


def nearest(
    steps: Sequence[Step],
    image: np.ndarray,
    samples: object,
    indices: np.ndarray,
    count: int = 6,
) -> list[Neighbor]:
    """Find the samples whose features are most similar to those of a picture.

    Args:
        steps: Steps of a network.
        image: (H, W, C) uint8.
        samples: Samples of the dataset, with images of the same shape.
        indices: (N,) indices of the samples to compare.
        count: Max number of samples to return.

    Returns:
        The samples, the most similar one first.
    """
    replay = Replay(steps, output=feature_step(steps))
    own = _features(replay, image[None])[0]
    similar, same = [], []
    for start in range(0, len(indices), _BATCH):
        pictures = samples.fetch(indices[start : start + _BATCH])  # pyright: ignore
        similar.append(_features(replay, pictures) @ own)
        same.append((pictures == image).all((1, 2, 3)))
    similarities, equal = np.concatenate(similar), np.concatenate(same)
    best = np.argsort(-similarities, kind="stable")[:count]
    return [
        Neighbor(
            int(indices[at]),
            float(similarities[at]),
            samples.fetch(indices[at : at + 1])[0],  # pyright: ignore
            bool(equal[at]),
        )
        for at in best
    ]


def _features(replay: Replay, images: np.ndarray) -> np.ndarray:
    values = run(replay, images).reshape(len(images), -1)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Field:
    """The part of the picture that a value of a map depends on, along one axis.

    The value at `index` depends on the pixels from `start + index * step`, `size` of them.
    """

    start: int
    step: int
    size: int


def receptive_fields(network: Network) -> list[tuple[Field, Field] | None]:
    """Compute the receptive field of each operation, along rows and columns.

    Returns:
        A pair for each operation with maps; `None` for one whose values depend on the whole
        picture, or of which it is unknown.
    """
    fields: list[tuple[Field, Field] | None] = []
    for operation in network.operations:
        before = [fields[at] for at in operation.inputs]
        if operation.kind == "picture":
            fields.append((Field(0, 1, 1), Field(0, 1, 1)))
        elif len(operation.shape) != 3 or not before or None in before:
            fields.append(None)
        elif operation.kind in ("conv", "max_pool", "average_pool"):
            (pair,) = before
            assert pair is not None
            it = operation.settings
            rows, columns = (
                _windowed(
                    pair[axis],
                    it["size"][axis],
                    it["strides"][axis],
                    it["dilation"][axis],
                    it["before"][axis],
                )
                for axis in (0, 1)
            )
            fields.append((rows, columns))
        elif operation.kind == "zero_padding":
            (pair,) = before
            assert pair is not None
            top, left, _ = operation.settings["before"]
            rows, columns = _windowed(pair[0], 1, 1, 1, top), _windowed(pair[1], 1, 1, 1, left)
            fields.append((rows, columns))
        elif operation.kind == "cropping":
            (pair,) = before
            assert pair is not None
            top, left = operation.settings["before"]
            rows, columns = _windowed(pair[0], 1, 1, 1, -top), _windowed(pair[1], 1, 1, 1, -left)
            fields.append((rows, columns))
        elif operation.kind == "upsampling":
            (pair,) = before
            assert pair is not None
            rows, columns = map(_repeated, pair, operation.settings["size"])
            fields.append(None if rows is None or columns is None else (rows, columns))
        elif operation.kind in ("affine", "activation", "add", "subtract", "concatenate"):
            pairs = [pair for pair in before if pair is not None]
            united = [_united([pair[axis] for pair in pairs]) for axis in (0, 1)]
            rows, columns = united
            fields.append(None if rows is None or columns is None else (rows, columns))
        else:
            fields.append(None)
    return fields


def _windowed(field: Field, size: int, stride: int, dilation: int, before: int) -> Field:
    return Field(
        field.start - before * field.step,
        field.step * stride,
        field.size + (size - 1) * dilation * field.step,
    )


def _repeated(field: Field, times: int) -> Field | None:
    """Return the field of values that are repeated: one that contains those of all copies."""
    if field.step % times:
        return None
    step = field.step // times
    return Field(field.start - (times - 1) * step, step, field.size + (times - 1) * step)


def _united(fields: Sequence[Field]) -> Field | None:
    if len({each.step for each in fields}) != 1:
        return None
    start = min(each.start for each in fields)
    end = max(each.start + each.size for each in fields)
    return Field(start, fields[0].step, end - start)
