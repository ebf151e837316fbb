"""Build the Keras optimizer that the options of a run describe, with its learning rate schedule."""

from __future__ import annotations

from typing import Any

import keras

from cnnforge.optimizer_options import OPTIMIZERS, OptimizerOptions
from cnnforge.training.schedules import Schedule, factor


class LearningRate:
    """Reads and sets the learning rate of an optimizer, for `metrics.csv` and callbacks.

    Args:
        optimizer: The optimizer.
        schedule: Schedule of the optimizer; `None` for a constant rate.
    """

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, schedule: Schedule | None = None
    ) -> None:
        self._optimizer, self._schedule = optimizer, schedule

    @property
    def last(self) -> float:
        """The rate of the last step. Setting `next` changes this value, so read it before."""
        if self._schedule is None:
            return self.next
        return _value(self._schedule(max(int(self._optimizer.iterations) - 1, 0)))

    @property
    def next(self) -> float:
        """The rate of the next step; it can be set.

        If there is a schedule, setting the rate multiplies the peak rate by new rate / old rate.
        All later rates are therefore multiplied by this factor too.
        """
        return _value(self._optimizer.learning_rate)

    @next.setter
    def next(self, value: float) -> None:
        if self._schedule is None:
            self._optimizer.learning_rate = value
        else:
            now = self._schedule.factor(int(self._optimizer.iterations))
            self._schedule.peak.assign(value / _value(now))


def build(
    options: OptimizerOptions, *, batches: int, epochs: int
) -> tuple[keras.optimizers.Optimizer, LearningRate]:
    """Make an optimizer.

    Args:
        options: Options of the optimizer.
        batches: Number of steps in an epoch.
        epochs: Number of epochs of the run.

    Returns:
        The optimizer, which has no variables of a model yet, and its learning rate. If there is a
        schedule, the peak rate is a variable of the optimizer, so it is saved with the training
        state.

    Raises:
        UsageError: The warmup is not shorter than the training.
    """
    options.check_epochs(epochs)
    optional = {"momentum": options.momentum, "weight_decay": options.weight_decay}
    arguments: dict[str, Any] = {
        name: value for name, value in optional.items() if value is not None
    }
    if options.clip_norm is not None:
        arguments["global_clipnorm"] = options.clip_norm
    if options.ema is not None:
        arguments |= {"use_ema": True, "ema_momentum": options.ema}
    kind = getattr(keras.optimizers, OPTIMIZERS[options.optimizer])
    changing = factor(options, batches, epochs)
    if changing is None:
        optimizer = kind(options.learning_rate, **arguments)
        return optimizer, LearningRate(optimizer)
    schedule = Schedule(changing)
    optimizer = kind(schedule, **arguments)
    initializer = keras.initializers.Constant(options.learning_rate)
    schedule.peak = optimizer.add_variable((), initializer, name="peak_learning_rate")
    return optimizer, LearningRate(optimizer, schedule)


def _value(scalar: Any) -> float:
    return float(keras.ops.convert_to_numpy(scalar))
