"""The options of the optimizer and of its learning rate. Imports nothing heavy.

An option is a field of `OptimizerOptions`. `config.toml`, `--print-config` and the options of
`cnnforge train` are made from the fields; `cnnforge.training.optimizers` uses their values.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from cnnforge.errors import UsageError

# The name on the command line, and the class in keras.optimizers. Three of Keras' are missing.
# Muon changes matrices only, so that the kernels of convolutions would get AdamW. ScheduleFreeAdamW
# keeps the weights to evaluate with where no public function finds them. The rest wraps others.
OPTIMIZERS = {
    "adam": "Adam",
    "adamw": "AdamW",
    "sgd": "SGD",
    "rmsprop": "RMSprop",
    "nadam": "Nadam",
    "adamax": "Adamax",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "lamb": "Lamb",
    "lion": "Lion",
    "ftrl": "Ftrl",
}
WITH_MOMENTUM = ("sgd", "rmsprop")
# Every optimizer of Keras takes a weight decay, and Adam with one is AdamW.
WITHOUT_WEIGHT_DECAY = ("adam",)

SCHEDULES = ("constant", "cosine", "step", "one_cycle")
# Their rate depends on the number of epochs.
ENDING_SCHEDULES = ("cosine", "one_cycle")
_STEP_EPOCHS = 10


def _option(default: Any, metavar: str, text: str, shown: str | None = None) -> Any:
    """Declare a field, and how `cnnforge train --help` shows it."""
    help_text = f"{text}  [default: {default if shown is None else shown}]"
    return field(default=default, metadata={"metavar": metavar, "help": help_text})


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """What changes the weights, and by how much.

    Args:
        optimizer: Name of the optimizer, a key of `OPTIMIZERS`.
        learning_rate: Highest learning rate of the run, above 0.
        momentum: Momentum, from 0 to below 1; `None`: that of Keras, which is 0. Only sgd and
            rmsprop have one.
        weight_decay: Part of a weight that a step takes away, divided by the learning rate; 0 or
            more; `None`: that of Keras, which is 0.004 for adamw and 0 for others. It applies to
            all trainable weights, biases too, as in Keras. adam has none.
        schedule: `"constant"`, `"cosine"`, `"step"` or `"step:EPOCHS"`, `"one_cycle"`. The step
            schedule divides the rate by 10 after every 10 epochs, or as many as it names.
        warmup_epochs: Number of epochs in which the rate rises to that of the schedule, linearly.
        clip_norm: Largest norm of all gradients of a step together, above 0; `None`: any.
        ema: Decay of the moving average of the weights, between 0 and 1, per step. Validation and
            the saved model use the average; training goes on with the weights themselves. `None`:
            there is no average.

    Raises:
        UsageError: A value is unknown or out of range, or two options exclude each other.
    """

    optimizer: str = _option("adam", "NAME", f"The optimizer: {', '.join(OPTIMIZERS)}.")
    learning_rate: float = _option(0.001, "RATE", "The highest learning rate of the run.")
    momentum: float | None = _option(None, "M", "The momentum of sgd or rmsprop.", "0")
    weight_decay: float | None = _option(
        None,
        "D",
        "Take this part of every weight away in each step, multiplied by the learning rate; "
        "biases too, as Keras does.",
        "0.004 for adamw, else 0",
    )
    schedule: str = _option(
        "constant",
        "|".join(SCHEDULES),
        f"How the learning rate changes; step divides it by 10 every {_STEP_EPOCHS} epochs, step:5 "
        "every 5.",
    )
    warmup_epochs: int = _option(0, "N", "Raise the learning rate linearly for N epochs first.")
    clip_norm: float | None = _option(
        None, "NORM", "Scale the gradients of a step down to this norm, all together.", "off"
    )
    ema: float | None = _option(
        None,
        "DECAY",
        "Validate and save a moving average of the weights, for instance 0.99.",
        "off",
    )

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("optimizer", self.optimizer, tuple(OPTIMIZERS))
        rate, momentum, decay = self.learning_rate, self.momentum, self.weight_decay
        infinity = float("inf")
        require(0 < rate < infinity, "learning_rate", rate, "a number above 0")
        require(momentum is None or 0 <= momentum < 1, "momentum", momentum, "0 to below 1")
        require(decay is None or 0 <= decay < infinity, "weight_decay", decay, "0 or more")
        norm, ema, warmup = self.clip_norm, self.ema, self.warmup_epochs
        require(norm is None or 0 < norm < infinity, "clip_norm", norm, "a number above 0")
        require(ema is None or 0 < ema < 1, "ema", ema, "between 0 and 1")
        require(warmup >= 0, "warmup_epochs", warmup, "0 or more")
        if momentum is not None and self.optimizer not in WITH_MOMENTUM:
            raise UsageError(
                f"momentum is {momentum}, but {self.optimizer} takes none: leave it out, or use "
                f"{either(WITH_MOMENTUM)}"
            )
        if decay is not None and self.optimizer in WITHOUT_WEIGHT_DECAY:
            raise UsageError(
                f"weight_decay is {decay}, but {self.optimizer} takes none: use adamw, which is "
                "Adam with weight decay"
            )
        one_of("schedule", self.schedule_name, SCHEDULES)
        _ = self.step_epochs
        if warmup and self.schedule_name == "one_cycle":
            raise UsageError(
                f"warmup_epochs is {warmup}, but the one_cycle schedule raises the rate by itself: "
                "leave warmup_epochs out, or use cosine"
            )

    @property
    def schedule_name(self) -> str:
        """`schedule` without its argument."""
        return self.schedule.partition(":")[0]

    @property
    def step_epochs(self) -> int:
        """Number of epochs between two steps of the step schedule."""
        name, colon, argument = self.schedule.partition(":")
        if not colon:
            return _STEP_EPOCHS
        if name != "step":
            raise UsageError(f"schedule is {self.schedule!r}, but {name} takes no argument")
        if not (argument.isascii() and argument.isdigit() and int(argument)):
            raise UsageError(
                f"schedule must be step:EPOCHS with 1 or more epochs, such as step:5, got "
                f"{self.schedule!r}"
            )
        return int(argument)

    @property
    def ends(self) -> bool:
        """Whether the rate depends on the number of epochs, which then cannot change."""
        return self.schedule_name in ENDING_SCHEDULES

    def check_epochs(self, epochs: int) -> None:
        """Check that the warm-up ends before training does.

        Args:
            epochs: Number of epochs of the run.

        Raises:
            UsageError: It does not.
        """
        if self.warmup_epochs >= epochs:
            raise UsageError(
                f"warmup_epochs must be less than epochs, which is {epochs}, got "
                f"{self.warmup_epochs}: train longer, or warm up for fewer epochs"
            )


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise a `UsageError` that names the option, if a condition does not hold."""
    if not condition:
        raise UsageError(f"{name} must be {expected}, got {value!r}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `UsageError` that names the choices, and the closest one, if a value is none."""
    if value not in choices:
        raise UsageError(f"{name} must be {either(choices)}, got {value!r}{hint(value, choices)}")


def either(choices: tuple[str, ...]) -> str:
    """Return `"a, b or c"`."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def hint(value: str, choices: tuple[str, ...]) -> str:
    """Return `"; did you mean 'x'?"` if a choice is close to the value, else nothing."""
    close = difflib.get_close_matches(value, choices, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
