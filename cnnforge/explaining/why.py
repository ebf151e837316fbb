"""Compute maps that show which parts of a picture a network's answer depends on.

Every method also runs with random last layers. A map that hardly changes then does not depend on
what the network has learned (J. Adebayo et al., "Sanity checks for saliency maps", 2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cnnforge.explaining.steps import Replay, Step, all_values, batch_size, gradients, run

MAX_CORRELATION = 0.3
"""Rank correlation from which on a map and that of random last layers are too similar."""
MAX_GAP = 0.05
"""Max gap of integrated gradients, as a fraction of the difference of the scores."""
MIN_STEPS, MAX_STEPS = 64, 1024
# Max number of multiplications of integrated gradients, and that of a small network.
_MULTIPLICATIONS, _LARGE = 2e11, 5e7
_MAX_SIDE = 112
_PLACES = 8


@dataclass(frozen=True)
class Map:
    """A map of one method for one class.

    Attributes:
        method: `"grad-cam"`, `"occlusion"` or `"integrated-gradients"`.
        layer: Name of the layer, for Grad-CAM.
        target: Index of the class.
        values: (H, W) float32. Positive values speak for the class.
        random: (H, W) float32, the same with random last layers.
        correlation: Rank correlation of both, the mean over the seeds.
        gap: Difference between the sum of integrated gradients and the difference of the scores, as
            a fraction of that difference.
        steps: Number of steps of integrated gradients.
    """

    method: str
    target: int
    values: np.ndarray
    random: np.ndarray
    correlation: float
    layer: str = ""
    gap: float | None = None
    steps: int | None = None

    @property
    def means_something(self) -> bool:
        """Whether the map passes the check with random last layers."""
        return self.correlation < MAX_CORRELATION


def explain(
    steps: Sequence[Step],
    image: np.ndarray,
    classes: Sequence[int],
    layers: Sequence[int],
    *,
    multiplications: int = 0,
) -> list[Map]:
    """Compute the maps of all methods.

    Args:
        steps: Steps of a network up to its scores, without the last softmax.
        image: (H, W, C) pixel values 0..255.
        classes: Indices of the classes.
        layers: Indices of the steps for Grad-CAM, with values (H, W, C).
        multiplications: Multiplications of the network for one picture. A large network gets random
            last layers once instead of three times, and integrated gradients fewer steps.

    Returns:
        The maps.
    """
    image = np.asarray(image, np.float32)
    most = max(MIN_STEPS, min(MAX_STEPS, int(_MULTIPLICATIONS / max(1, multiplications))))
    found = _measure(steps, image, classes, layers, most)
    randoms = []
    for seed in range(3 if multiplications < _LARGE else 1):
        with random_last_layers(steps, seed):
            randoms.append(_measure(steps, image, classes, layers, MIN_STEPS))
    maps = []
    for key, (values, extra) in found.items():
        others = [random[key][0] for random in randoms]
        correlation = float(np.mean([rank_correlation(values, other) for other in others]))
        method, layer, target = key
        name = steps[layer].name if layer is not None else ""
        maps.append(Map(method, target, values, others[0], correlation, name, **extra))
    return maps


_Key = tuple[str, "int | None", int]
_Found = dict[_Key, tuple[np.ndarray, dict[str, Any]]]


def _measure(
    steps: Sequence[Step],
    image: np.ndarray,
    classes: Sequence[int],
    layers: Sequence[int],
    most: int,
) -> _Found:
    found: _Found = {}
    for target, cams in zip(classes, grad_cam(steps, image, classes, layers), strict=True):
        for layer, cam in zip(layers, cams, strict=True):
            found["grad-cam", layer, target] = cam, {}
    for target, values in zip(classes, occlusion(steps, image, classes), strict=True):
        found["occlusion", None, target] = values, {}
    for target, (values, gap, count) in zip(
        classes, integrated_gradients(steps, image, classes, most), strict=True
    ):
        extra = {"gap": gap, "steps": count}
        found["integrated-gradients", None, target] = _at_most(values.sum(2)), extra
    return found


def grad_cam(
    steps: Sequence[Step], image: np.ndarray, classes: Sequence[int], layers: Sequence[int]
) -> list[list[np.ndarray]]:
    """Compute Grad-CAM (R. R. Selvaraju et al., "Grad-CAM", 2017).

    Args:
        steps: Steps of a network up to its scores.
        image: (H, W, C) pixel values.
        classes: Indices of the classes.
        layers: Indices of steps with values (H, W, C).

    Returns:
        For each class and each layer a map (H, W) float32.
    """
    replay = Replay(steps, watched=layers)
    values = all_values(steps, image)
    _, found = gradients(replay, image[None], classes)
    return [
        [
            np.maximum((values[layer] * gradient[0].mean((0, 1))).sum(2), 0)
            for layer, gradient in zip(layers, of_class[1:], strict=True)
        ]
        for of_class in found
    ]


def integrated_gradients(
    steps: Sequence[Step], image: np.ndarray, classes: Sequence[int], most: int = MAX_STEPS
) -> list[tuple[np.ndarray, float, int]]:
    """Integrate the gradients on the way from a black picture to the picture.

    The values sum to the difference of the scores of both pictures (M. Sundararajan et al.,
    "Axiomatic attribution for deep networks", 2017). While the gap of a class is above `MAX_GAP`,
    the number of steps doubles.

    Args:
        steps: Steps of a network up to its scores.
        image: (H, W, C) pixel values.
        classes: Indices of the classes.
        most: Max number of steps.

    Returns:
        For each class: the values (H, W, C) float32, the gap, and the number of steps.
    """
    replay = Replay(steps)
    black = np.zeros_like(image)
    before, after = run(replay, np.stack([black, image]))
    differences = [float(after[index] - before[index]) for index in classes]
    count = MIN_STEPS
    while True:
        sums = np.zeros((len(classes), *image.shape))
        size = min(64, batch_size(image.shape))
        for start in range(0, count, size):
            # The middles of the steps halve the error compared with their ends.
            way = (np.arange(start, min(start + size, count), dtype=np.float32) + 0.5) / count
            _, found = gradients(replay, way[:, None, None, None] * image, classes)
            for at, (of_images,) in enumerate(found):
                sums[at] += of_images.sum(0, dtype=np.float64)
        values = sums * image / count
        gaps = [
            abs(float(each.sum()) - difference) / max(abs(difference), 1e-6)
            for each, difference in zip(values, differences, strict=True)
        ]
        if max(gaps) <= MAX_GAP or count * 2 > most:
            return [
                (each.astype(np.float32), gap, count)
                for each, gap in zip(values, gaps, strict=True)
            ]
        count *= 2


def occlusion(steps: Sequence[Step], image: np.ndarray, classes: Sequence[int]) -> list[np.ndarray]:
    """Compute by how much the score falls when a square of the picture is gray.

    The square has about a quarter of the picture's side, and the color is the mean of the picture.

    Args:
        steps: Steps of a network up to its scores.
        image: (H, W, C) pixel values.
        classes: Indices of the classes.

    Returns:
        For each class a map (rows, columns) float32, one value for each place of the square.
    """
    replay = Replay(steps)
    height, width = image.shape[:2]
    tall, wide = max(1, round(height / 4)), max(1, round(width / 4))
    rows = np.unique(np.linspace(0, height - tall, _PLACES).round().astype(int))
    columns = np.unique(np.linspace(0, width - wide, _PLACES).round().astype(int))
    pictures = [image]
    for row in rows:
        for column in columns:
            covered = image.copy()
            covered[row : row + tall, column : column + wide] = image.mean((0, 1))
            pictures.append(covered)
    scores = run(replay, np.stack(pictures))
    falls = scores[0] - scores[1:]
    return [
        falls[:, index].reshape(len(rows), len(columns)).astype(np.float32) for index in classes
    ]


def last_layers(steps: Sequence[Step]) -> list[Any]:
    """Return the fully connected layers after the last convolution.

    Without such layers, these are the layers with weights that are the closest to the scores.
    """
    weighted = [it for it in steps if _has_weights(it)]
    places = [at for at, it in enumerate(weighted) if _is_convolution(it.layer)]
    after = [it for it in weighted[places[-1] + 1 if places else 0 :] if _is_dense(it.layer)]
    chosen = after or _closest(steps)
    return list({id(it.layer): it.layer for it in chosen}.values())


def _closest(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with weights from which a way without weights leads to the last step."""
    found, waiting, seen = [], [len(steps) - 1], set[int]()
    while waiting:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        if _has_weights(steps[at]):
            found.append(steps[at])
        else:
            waiting += steps[at].inputs
    return found


def _has_weights(step: Step) -> bool:
    return step.activation is None and bool(getattr(step.layer, "weights", ()))


def _is_convolution(layer: Any) -> bool:
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    return isinstance(layer, kinds)


def _is_dense(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Dense)


@contextmanager
def random_last_layers(steps: Sequence[Step], seed: int) -> Iterator[None]:
    """Give the last layers random weights inside a `with` block.

    The weights have a mean of zero and the size of the learned ones. Biases are zero.
    """
    generator = np.random.default_rng(seed)
    kept = [(each, each.get_weights()) for each in last_layers(steps)]
    try:
        for layer, weights in kept:
            layer.set_weights(
                [
                    generator.normal(0, max(float(each.std()), 1e-3), each.shape)
                    if each.ndim > 1
                    else np.zeros_like(each)
                    for each in weights
                ]
            )
        yield
    finally:
        for layer, weights in kept:
            layer.set_weights(weights)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's rank correlation of two arrays; 0 if one of them is constant."""
    ranks = [_ranks(each.ravel()) for each in (first, second)]
    centered = [each - each.mean() for each in ranks]
    size = float(np.sqrt((centered[0] ** 2).sum() * (centered[1] ** 2).sum()))
    return float((centered[0] * centered[1]).sum() / size) if size else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    # Equal values get the mean of their ranks.
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def _at_most(values: np.ndarray, side: int = _MAX_SIDE) -> np.ndarray:
    """Add up squares of values, until no side is above a limit."""
    while max(values.shape) > side:
        rows, columns = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
        even = values[:rows, :columns]
        values = even.reshape(rows // 2, 2, columns // 2, 2).sum((1, 3))
    return values


def importance(
    steps: Sequence[Step], image: np.ndarray, target: int, places: Sequence[int]
) -> list[np.ndarray]:
    """Return how much each channel matters for a class: the mean of |gradient x value|.

    For a step that the score does not depend on, it is the mean of |value|.

    Args:
        steps: Steps of a network up to its scores.
        image: (H, W, C) pixel values.
        target: Index of the class.
        places: Indices of steps with values (H, W, C).

    Returns:
        (C,) float32 for each step.
    """
    values = all_values(steps, image)
    _, (found,) = gradients(Replay(steps, watched=places), image[None], [target])
    return [
        np.abs(values[at] * gradient[0] if gradient.size else values[at]).mean((0, 1))
        for at, gradient in zip(places, found[1:], strict=True)
    ]
