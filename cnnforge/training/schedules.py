"""Learning rate schedules.

The rate of a step is the peak rate times a factor that depends only on the index of the step. The
optimizer computes the rate inside the graph, from its own step counter. Neither an interruption of
training nor the number of steps in one call of the graph changes the rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from cnnforge.optimizer_options import OptimizerOptions

# The one-cycle schedule uses the defaults of PyTorch's OneCycleLR. `_RISE` is the fraction of the
# steps in which the rate rises. `_FIRST` and `_LAST` are the first and the last rate, as fractions
# of the peak rate.
_RISE = 0.3
_FIRST = 1 / 25
_LAST = _FIRST / 10_000
_STEP_FACTOR = 0.1

Factor = Callable[[Any], Any]


def factor(options: OptimizerOptions, batches: int, epochs: int) -> Factor | None:
    """Return the function that computes the factor of the peak rate from the index of the step.

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
    """Learning rate schedule: a peak rate times a factor that depends on the step.

    Args:
        factor: A function from the index of a step to a float32 scalar, made by `factor`.
    """

    # A variable of the optimizer, which does not exist yet when the schedule is made. The function
    # `cnnforge.training.optimizers.build` sets the attribute later.
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
    # Add 1, so that the rate of the first step is above 0.
    return keras.ops.minimum((_number(step) + 1.0) / steps, 1.0)


def _cosine(step: Any, first: int, total: int) -> Any:
    """Return a factor that falls along half a cosine from 1 at step `first` to 0 at step `total`.

    Steps are counted from 0, so the last step is `total - 1`, and its factor is above 0.
    """
    step = keras.ops.clip(_number(step), first, total - 1)
    return 0.5 + 0.5 * keras.ops.cos((step - first) * (math.pi / (total - first)))


def _steps(step: Any, length: int) -> Any:
    # Use integer division. A float32 quotient just below a whole number could be rounded up, and
    # the rate would then drop one step too early.
    return keras.ops.power(_STEP_FACTOR, _number(keras.ops.floor_divide(step, length)))


def _one_cycle(step: Any, total: int) -> Any:
    """Return a factor that first rises along half a cosine, and then falls along half a cosine.

    The one-cycle schedule is by Smith and Topin (2017); fastai introduced the cosine shape.
    """
    top = max(_RISE * total - 1.0, 1.0)
    step = keras.ops.minimum(_number(step), float(total - 1))
    up = 0.5 - 0.5 * keras.ops.cos(keras.ops.minimum(step / top, 1.0) * math.pi)
    fall = keras.ops.maximum(step - top, 0.0) / max(total - 1.0 - top, 1.0)
    down = 0.5 + 0.5 * keras.ops.cos(fall * math.pi)
    return keras.ops.where(step < top, _FIRST + (1.0 - _FIRST) * up, _LAST + (1.0 - _LAST) * down)


def _number(step: Any) -> Any:
    # float32 represents integers up to 2**24 (16.7 million) exactly. Above that, the index of the
    # step is rounded, which changes the rate only slightly.
    return keras.ops.cast(step, "float32")
