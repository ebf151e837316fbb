"""The loss and its gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from detection_samples import samples

from cnnforge.tasks.detection.losses import NUMPY, level_losses, total
from cnnforge.tasks.detection.objects import objects_of
from cnnforge.tasks.detection.targets import Level, target_maps

LEVELS = (Level(4, 8, 12), Level(8, 4, 6))


def maps(seed: int = 0, scale: float = 2.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    given = objects_of(samples(5, seed=seed, most=6), np.arange(5), (32, 48))
    targets = list(target_maps(given, LEVELS, 3).values())
    random = np.random.default_rng(seed)
    outputs = [
        random.normal(0, scale, (5, level.height, level.width, 7)).astype(np.float32)
        for level in LEVELS
    ]
    return targets, outputs


def loss(ops, targets, outputs):
    parts = [level_losses(ops, t, o, 3) for t, o in zip(targets, outputs, strict=True)]
    return total(ops, parts)


def definition(targets, outputs) -> np.ndarray:
    """The two losses of each image, cell by cell, in float64."""
    result = np.zeros((2, 5))
    counts = np.zeros(5)
    for target, output in zip(targets, outputs, strict=True):
        target, output = target.astype(np.float64), output.astype(np.float64)
        for place in np.ndindex(target.shape[:3]):
            image, row, column = place
            for label in range(3):
                weight, p = target[*place, label], 1 / (1 + np.exp(-output[*place, label]))
                if weight == -1:
                    counts[image] += 1
                    result[0, image] -= (1 - p) ** 2 * np.log(p)
                else:
                    result[0, image] -= weight * p**2 * np.log1p(-p)
            true = target[*place, 3:7]
            sides = np.exp(output[*place, 3:].clip(-6, 6))
            middle = np.array([column + 0.5, row + 0.5])
            box = np.concatenate([middle - sides[:2], middle + sides[2:]])
            low, high = np.maximum(box[:2], true[:2]), np.minimum(box[2:], true[2:])
            common = np.prod((high - low).clip(0))
            union = np.prod(box[2:] - box[:2]) + np.prod(true[2:] - true[:2]) - common
            hull = np.prod(np.maximum(box[2:], true[2:]) - np.minimum(box[:2], true[:2]))
            giou = common / union - (hull - union) / hull
            result[1, image] += 5 * target[*place, 7] * (1 - giou)
    return result / np.maximum(counts, 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_its_definition_in_both_forms(seed: int) -> None:
    targets, outputs = maps(seed)
    expected = definition(targets, outputs)
    for ops in (NUMPY, keras.ops):
        for found, exact in zip(loss(ops, targets, outputs), expected, strict=True):
            found = np.asarray(found)
            assert found.shape == (5,)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


def test_both_forms_are_equal() -> None:
    targets, outputs = maps(7)
    for found, expected in zip(
        loss(NUMPY, targets, outputs), loss(keras.ops, targets, outputs), strict=True
    ):
        np.testing.assert_allclose(found, np.asarray(expected), rtol=2e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    targets, outputs = maps(1, 1.0)
    tensors = [tf.Variable(each) for each in outputs]
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(sum(loss(keras.ops, targets, tensors)))
    found = [each.numpy() for each in tape.gradient(value, tensors)]
    random = np.random.default_rng(0)
    for level in (0, 1):
        learned = np.argwhere(targets[level][..., -1] > 0)
        cells = [*learned[random.choice(len(learned), 12)], *random.integers(0, 4, (8, 3))]
        for cell in cells:
            for channel in range(7):
                place = (*(int(n) for n in cell), channel)
                step, sides = 1e-4, []
                for sign in (1, -1):
                    changed = [each.astype(np.float64) for each in outputs]
                    changed[level][place] += sign * step
                    sides.append(definition(targets, changed).sum())
                numeric = (sides[0] - sides[1]) / (2 * step)
                assert found[level][place] == pytest.approx(numeric, rel=2e-3, abs=2e-5)


@pytest.mark.parametrize("value", [-1e30, -1e4, -100.0, 100.0, 1e4, 1e30])
def test_extreme_outputs_give_finite_losses_and_gradients(value: float) -> None:
    targets, outputs = maps()
    tensors = [tf.Variable(np.full_like(each, value)) for each in outputs]
    with tf.GradientTape() as tape:
        losses = sum(loss(keras.ops, targets, tensors))
        together = tf.reduce_sum(losses)
    assert np.isfinite(losses.numpy()).all()
    assert all(np.isfinite(each.numpy()).all() for each in tape.gradient(together, tensors))
    assert np.isfinite(sum(loss(NUMPY, targets, [each.numpy() for each in tensors]))).all()


def test_a_perfect_output_has_no_loss() -> None:
    targets, outputs = maps(2)
    for target, output in zip(targets, outputs, strict=True):
        output[..., :3] = np.where(target[..., :3] < 0, 30, -30)
        y, x = np.mgrid[: target.shape[1], : target.shape[2]] + 0.5
        middle = np.stack([x, y, x, y], axis=-1)
        distances = (target[..., 3:7] - middle) * [-1, -1, 1, 1]
        # The middle of the cell may lie outside of a small box, and has then no distances.
        target[..., -1] *= (distances > 0).all(axis=-1)
        output[..., 3:] = np.log(np.maximum(distances, 1e-3))
    heat, boxes = loss(NUMPY, targets, outputs)
    assert np.abs(heat).max() < 1e-5
    assert np.abs(boxes).max() < 1e-4


def test_what_a_crowd_shows_is_not_learned() -> None:
    given = samples(1, most=0)
    given.boxes, given.labels = [np.array([[8.0, 8, 24, 24]])], [np.array([1], np.int32)]
    given.crowd = [np.array([True])]
    (target,) = target_maps(objects_of(given, np.arange(1), (32, 48)), LEVELS[:1], 3).values()
    output = np.full((1, 8, 12, 7), -20, np.float32)
    output[0, 2:6, 2:6, 1] = 5
    assert level_losses(NUMPY, target, output, 3)[0] < 1e-6
    output[0, 2, 2, 0] = 5
    assert level_losses(NUMPY, target, output, 3)[0] > 1
