"""How the learning rate changes from step to step.

A schedule is a peak rate times a factor, which is a function of the number of the step alone. The
optimizer computes both inside the graph from its own count of steps, so that neither the size of a
chunk nor an interruption changes a rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from cnnforge.optimizer_options import OptimizerOptions

# Of the one-cycle schedule: the part of the steps in which the rate rises, its first rate and its
# last one, as parts of the peak. These are the defaults of PyTorch's OneCycleLR; fastai shares the
# first two.
_RISE = 0.3
_FIRST = 1 / 25
_LAST = _FIRST / 10_000
_STEP_FACTOR = 0.1

Factor = Callable[[Any], Any]


def factor(options: OptimizerOptions, batches: int, epochs: int) -> Factor | None:
    """Return what the peak rate is multiplied by.

    Args:
        options: The schedule and its warm-up.
        batches: Number of steps in an epoch.
        epochs: Number of epochs of the run.

    Returns:
        A function from the number of a step (from 0, an integer tensor) to a float32 scalar. After
        the last step it keeps its value. `None`: the rate is constant.
    """
    rising, total = options.warmup_epochs * batches, epochs * batches
    follow: dict[str, Factor | None] = {
        "constant": None,
        "cosine": lambda step: _cosine(step, rising, total),
        "step": lambda step: _steps(step, options.step_epochs * batches),
        "one_cycle": lambda step: _one_cycle(step, total),
    }
    base = follow[options.schedule_name]
    if not rising:
        return base
    if base is None:
        return lambda step: _warm_up(step, rising)
    return lambda step: _warm_up(step, rising) * base(step)


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A peak rate times a factor of the step.

    Args:
        factor: As `factor` returns it.
    """

    # A variable of the optimizer, which exists after its schedule.
    peak: keras.Variable

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor = factor

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step: a float32 scalar."""
        return self.peak * self.factor(step)

    def get_config(self) -> dict[str, Any]:
        """Refuse: the optimizer of a run is made from the options of the run."""
        raise NotImplementedError("a run keeps its options, not its schedule")


def _warm_up(step: Any, steps: int) -> Any:
    # The first step has a rate too.
    return keras.ops.minimum((_number(step) + 1.0) / steps, 1.0)


def _cosine(step: Any, first: int, total: int) -> Any:
    """Half a cosine from 1 down to 0, which the step after the last one would have."""
    step = keras.ops.clip(_number(step), first, total - 1)
    return 0.5 + 0.5 * keras.ops.cos((step - first) * (math.pi / (total - first)))


def _steps(step: Any, length: int) -> Any:
    # Divided as integers: in float32 a step before a multiple could be rounded up to it.
    return keras.ops.power(_STEP_FACTOR, _number(keras.ops.floor_divide(step, length)))


def _one_cycle(step: Any, total: int) -> Any:
    """Half a cosine up and half a cosine down (Smith and Topin 2017, with fastai's cosines)."""
    top = max(_RISE * total - 1.0, 1.0)
    step = keras.ops.minimum(_number(step), float(total - 1))
    up = 0.5 - 0.5 * keras.ops.cos(keras.ops.minimum(step / top, 1.0) * math.pi)
    fall = keras.ops.maximum(step - top, 0.0) / max(total - 1.0 - top, 1.0)
    down = 0.5 + 0.5 * keras.ops.cos(fall * math.pi)
    return keras.ops.where(step < top, _FIRST + (1.0 - _FIRST) * up, _LAST + (1.0 - _LAST) * down)


def _number(step: Any) -> Any:
    # Exact up to 16.7 million steps.
    return keras.ops.cast(step, "float32")
