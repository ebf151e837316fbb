"""Build the Keras optimizer that the options of a run describe, with its learning rate schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from cnnforge.backends import copies_of, with_one_op
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
        return _value(self._schedule(max(self._steps() - 1, 0)))

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
            now = self._schedule.factor(self._steps())
            self._schedule.peak.assign(value / _value(now))

    def _steps(self) -> int:
        # Keras cannot convert a variable that has a copy on each device.
        return int(_value(self._optimizer.iterations))


def build(
    options: OptimizerOptions,
    *,
    batches: int,
    epochs: int,
    slower: Iterable[keras.Variable] = (),
    factor_of_slower: float = 1.0,
) -> tuple[keras.optimizers.Optimizer, LearningRate]:
    """Make an optimizer.

    Args:
        options: Options of the optimizer.
        batches: Number of steps in an epoch.
        epochs: Number of epochs of the run.
        slower: Weights that are trained at another rate than the others.
        factor_of_slower: Factor for the learning rate of these weights.

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
    kind = with_one_op(getattr(keras.optimizers, OPTIMIZERS[options.optimizer]))
    if factor_of_slower != 1:
        kind = _with_two_rates(kind, list(slower), factor_of_slower)
    changing = factor(options, batches, epochs)
    if changing is None:
        optimizer = kind(options.learning_rate, **arguments)
        return optimizer, LearningRate(optimizer)
    schedule = Schedule(changing)
    optimizer = kind(schedule, **arguments)
    initializer = keras.initializers.Constant(options.learning_rate)
    schedule.peak = optimizer.add_variable((), initializer, name="peak_learning_rate")
    return optimizer, LearningRate(optimizer, schedule)


def _with_two_rates(
    kind: type[keras.optimizers.Optimizer], slower: list[keras.Variable], factor: float
) -> type[keras.optimizers.Optimizer]:
    """Make a subclass of an optimizer that multiplies the learning rate of some weights."""
    # Under TensorFlow, an optimizer gets the variables of TensorFlow inside those of Keras.
    known = {
        id(each) for variable in slower for each in (variable, variable.value, *copies_of(variable))
    }

    class TwoRates(kind):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # Keras would decay these weights at the rate of the others.
            self.exclude_from_weight_decay(var_list=slower)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            """Take a step for one weight, at its own rate."""
            if id(variable) in known:
                learning_rate = learning_rate * factor
                if self.weight_decay is not None:
                    rate = keras.ops.cast(learning_rate * self.weight_decay, variable.dtype)
                    self.assign(variable, variable - variable * rate)
            super().update_step(gradient, variable, learning_rate)

    TwoRates.__name__ = kind.__name__
    return TwoRates


def _value(scalar: Any) -> float:
    return float(keras.ops.convert_to_numpy(scalar))
