"""Learning rate schedules.

A schedule is a peak rate times a factor that depends only on the index of the step. The optimizer
computes the rate inside the graph from its own step counter. The rate of a step therefore does not
depend on the number of steps that one call of the graph runs, or on interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from cnnforge.optimizer_options import OptimizerOptions

# One-cycle schedule: the fraction of the steps in which the rate rises, and the first and the last
# rate as fractions of the peak. These are the defaults of PyTorch's OneCycleLR.
_RISE = 0.3
_FIRST = 1 / 25
_LAST = _FIRST / 10_000
_STEP_FACTOR = 0.1

Factor = Callable[[Any], Any]


def factor(options: OptimizerOptions, batches: int, epochs: int) -> Factor | None:
    """Return the factor of the peak rate as a function of the index of the step.

    Args:
        options: Options with the schedule and its warmup.
        batches: Number of steps in an epoch.
        epochs: Number of epochs of the run.

    Returns:
        A function from the index of a step (an integer tensor, from 0) to a float32 scalar; `None`
        for a constant rate. The factors of `cosine` and `one_cycle` stay constant after the last
        step of the run.
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
    """A peak rate times a factor that depends on the step.

    Args:
        factor: A function from the index of a step to a float32 scalar, made by `factor`.
    """

    # A variable of the optimizer. `build` sets it, since the optimizer is made after its schedule.
    peak: keras.Variable

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor = factor

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step: a float32 scalar."""
        return self.peak * self.factor(step)

    def get_config(self) -> dict[str, Any]:
        """Raise `NotImplementedError`, since a run saves its options and not its schedule."""
        raise NotImplementedError("a run keeps its options, not its schedule")


def _warm_up(step: Any, steps: int) -> Any:
    # + 1, so that the rate of the first step is not 0.
    return keras.ops.minimum((_number(step) + 1.0) / steps, 1.0)


def _cosine(step: Any, first: int, total: int) -> Any:
    """Return a factor that falls along half a cosine from 1 at step `first` to 0 at step `total`.

    The last step is `total - 1`, so its factor is above 0.
    """
    step = keras.ops.clip(_number(step), first, total - 1)
    return 0.5 + 0.5 * keras.ops.cos((step - first) * (math.pi / (total - first)))


def _steps(step: Any, length: int) -> Any:
    # Divide integers: a float32 quotient just below a whole number could be rounded up to it.
    return keras.ops.power(_STEP_FACTOR, _number(keras.ops.floor_divide(step, length)))


def _one_cycle(step: Any, total: int) -> Any:
    """Return a factor that rises along half a cosine, and then falls along half a cosine.

    The schedule is that of Smith and Topin (2017), with the cosines of fastai.
    """
    top = max(_RISE * total - 1.0, 1.0)
    step = keras.ops.minimum(_number(step), float(total - 1))
    up = 0.5 - 0.5 * keras.ops.cos(keras.ops.minimum(step / top, 1.0) * math.pi)
    fall = keras.ops.maximum(step - top, 0.0) / max(total - 1.0 - top, 1.0)
    down = 0.5 + 0.5 * keras.ops.cos(fall * math.pi)
    return keras.ops.where(step < top, _FIRST + (1.0 - _FIRST) * up, _LAST + (1.0 - _LAST) * down)


def _number(step: Any) -> Any:
    # float32 is exact up to 16.7 million steps.
    return keras.ops.cast(step, "float32")
