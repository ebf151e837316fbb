"""Schedules: the factor of every step."""

import math

import keras
import numpy as np
import pytest

from cnnforge.optimizer_options import OptimizerOptions
from cnnforge.training.schedules import factor


def factors(batches: int, epochs: int, **options: object) -> list[float]:
    """Return the factors of all steps, and of two after the last."""
    follow = factor(OptimizerOptions(**options), batches, epochs)
    assert follow is not None
    steps = range(batches * epochs + 2)
    return [float(keras.ops.convert_to_numpy(follow(keras.ops.array(it)))) for it in steps]


def test_constant_has_none() -> None:
    assert factor(OptimizerOptions(), 5, 4) is None


def test_cosine() -> None:
    found = factors(5, 4, schedule="cosine")
    expected = [0.5 + 0.5 * math.cos(math.pi * step / 20) for step in range(20)]
    np.testing.assert_allclose(found[:20], expected, rtol=1e-5)
    assert found[20] == found[21] == found[19] > 0


def test_step() -> None:
    found = factors(5, 4, schedule="step:2")
    np.testing.assert_allclose(found, [1.0] * 10 + [0.1] * 10 + [0.01] * 2, rtol=1e-5)
    np.testing.assert_allclose(factors(2, 11, schedule="step")[18:22], [1, 1, 0.1, 0.1], rtol=1e-5)


def test_one_cycle() -> None:
    """The rates are those of PyTorch's OneCycleLR(max_lr=1, total_steps=20) without its momenta."""
    found = factors(5, 4, schedule="one_cycle")
    assert found[0] == pytest.approx(1 / 25)
    assert found[5] == max(found) == pytest.approx(1)
    assert found[19] == found[20] == pytest.approx(4e-6)
    rising = 0.04 + 0.96 * (0.5 - 0.5 * math.cos(math.pi * 2 / 5))
    falling = 4e-6 + (1 - 4e-6) * (0.5 + 0.5 * math.cos(math.pi * 3 / 14))
    assert (found[2], found[8]) == pytest.approx((rising, falling), rel=1e-4)


@pytest.mark.parametrize(("batches", "epochs"), [(1, 1), (1, 2), (2, 1), (3, 1)])
@pytest.mark.parametrize("name", ["cosine", "one_cycle", "step"])
def test_a_short_run_has_rates_above_zero(name: str, batches: int, epochs: int) -> None:
    assert all(0 < it <= 1 for it in factors(batches, epochs, schedule=name))


def test_a_warm_up() -> None:
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    np.testing.assert_allclose(factors(5, 4, warmup_epochs=2), rising + [1.0] * 12, rtol=1e-5)
    found = factors(5, 4, warmup_epochs=2, schedule="cosine")
    expected = [0.5 + 0.5 * math.cos(math.pi * step / 10) for step in range(10)]
    np.testing.assert_allclose(found[:20], rising + expected, rtol=1e-5)
    found = factors(5, 4, warmup_epochs=2, schedule="step:1")
    expected = [it * (0.1 if step >= 5 else 1) for step, it in enumerate(rising)]
    np.testing.assert_allclose(found[:10], expected, rtol=1e-5)
