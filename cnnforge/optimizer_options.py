"""Define and check the options of the optimizer and of the learning rate schedule.

Each option is a field of `OptimizerOptions`. The command-line options of `cnnforge train`, the keys
of `config.toml` and the output of `--print-config` are derived from these fields.
`cnnforge.training.optimizers` builds the optimizer from their values. Importing this module does
not import Keras.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from cnnforge.errors import UsageError

# The name of each optimizer on the command line, and its class in keras.optimizers. Some optimizers
# of Keras are left out. Muon updates only matrices, and would train convolution kernels with AdamW.
# ScheduleFreeAdamW does not have a public function that returns the weights to evaluate. An
# optimizer that wraps another one would need two names.
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
# adam does not accept weight_decay: Adam with decoupled weight decay is the optimizer adamw.
WITHOUT_WEIGHT_DECAY = ("adam",)

SCHEDULES = ("constant", "cosine", "step", "one_cycle")
# Schedules whose rate depends on the total number of epochs, which therefore must not change when a
# run is resumed.
ENDING_SCHEDULES = ("cosine", "one_cycle")
_STEP_EPOCHS = 10


def option(default: Any, metavar: str, text: str, shown: str | None = None) -> Any:
    """Declare a dataclass field. Its metadata contains the help text of the command-line option.

    Args:
        default: Default of the field.
        metavar: Name of the value in the help text.
        text: The help text.
        shown: The default as the help text shows it; `None`: `default`.
    """
    help_text = f"{text}  [default: {default if shown is None else shown}]"
    return field(default=default, metadata={"metavar": metavar, "help": help_text})


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """The optimizer and its learning rate schedule.

    Args:
        optimizer: Name of the optimizer, a key of `OPTIMIZERS`.
        learning_rate: Peak learning rate of the run, above 0.
        momentum: Momentum of sgd or rmsprop, from 0 to below 1; `None`: the default of Keras, 0.
            Other optimizers do not accept it.
        weight_decay: Decoupled weight decay, 0 or more: each step subtracts
            `weight_decay * learning_rate * weight` from every trainable weight, biases included, as
            in Keras. `None`: the default of Keras, 0.004 for adamw and 0 for all others. adam does
            not accept it.
        schedule: `"constant"`, `"cosine"`, `"step"`, `"step:EPOCHS"` or `"one_cycle"`. The step
            schedule divides the rate by 10 after every `EPOCHS` epochs, by default 10.
        warmup_epochs: Number of epochs of linear warmup, 0 or more.
        clip_norm: Max global norm of the gradients of a step, above 0; `None`: no clipping.
        ema: Decay per step of an exponential moving average of the weights, more than 0 and less
            than 1. The average is used for validation and in the saved model, but training
            continues with the weights themselves. `None`: no average is computed.

    Raises:
        UsageError: A value is unknown or out of range, or two options exclude each other.
    """

    optimizer: str = option("adam", "NAME", f"Optimizer: {', '.join(OPTIMIZERS)}.")
    learning_rate: float = option(0.001, "RATE", "Peak learning rate.")
    momentum: float | None = option(None, "M", "Momentum of sgd or rmsprop.", "0")
    weight_decay: float | None = option(
        None,
        "D",
        "Decoupled weight decay of all trainable weights.",
        "0.004 for adamw, else 0",
    )
    schedule: str = option(
        "constant",
        "|".join(SCHEDULES),
        f"Learning rate schedule; step divides the rate by 10 every {_STEP_EPOCHS} epochs, step:5 "
        "every 5.",
    )
    warmup_epochs: int = option(0, "N", "Epochs of linear warmup.")
    clip_norm: float | None = option(None, "NORM", "Max global norm of the gradients.", "off")
    ema: float | None = option(
        None,
        "DECAY",
        "Decay of a moving average of the weights, such as 0.99; the average is validated and "
        "saved.",
        "off",
    )

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("optimizer", self.optimizer, tuple(OPTIMIZERS))
        rate, momentum, decay = self.learning_rate, self.momentum, self.weight_decay
        infinity = float("inf")
        require(0 < rate < infinity, "learning_rate", rate, "a number above 0")
        require(
            momentum is None or 0 <= momentum < 1, "momentum", momentum, "0 or more and less than 1"
        )
        require(decay is None or 0 <= decay < infinity, "weight_decay", decay, "0 or more")
        norm, ema, warmup = self.clip_norm, self.ema, self.warmup_epochs
        require(norm is None or 0 < norm < infinity, "clip_norm", norm, "a number above 0")
        require(ema is None or 0 < ema < 1, "ema", ema, "more than 0 and less than 1, such as 0.99")
        require(warmup >= 0, "warmup_epochs", warmup, "0 or more")
        if momentum is not None and self.optimizer not in WITH_MOMENTUM:
            raise UsageError(
                f"{self.optimizer} takes no momentum, got {momentum}: leave it out, or use "
                f"{either(WITH_MOMENTUM)}"
            )
        if decay is not None and self.optimizer in WITHOUT_WEIGHT_DECAY:
            raise UsageError(
                f"{self.optimizer} takes no weight_decay, got {decay}: use adamw, which is Adam "
                "with weight decay"
            )
        one_of("schedule", self.schedule_name, SCHEDULES)
        _ = self.step_epochs
        if warmup and self.schedule_name == "one_cycle":
            raise UsageError(
                f"warmup_epochs is {warmup}, but the one_cycle schedule has its own warmup: leave "
                "warmup_epochs out, or use cosine"
            )

    @property
    def schedule_name(self) -> str:
        """`schedule` without its argument."""
        return self.schedule.partition(":")[0]

    @property
    def step_epochs(self) -> int:
        """Number of epochs in each step: the schedule divides the rate by 10 after every step."""
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
        """Whether the rate depends on the total number of epochs.

        If it does, a resumed run must have the same number of epochs.
        """
        return self.schedule_name in ENDING_SCHEDULES

    def check_epochs(self, epochs: int) -> None:
        """Check that the warmup ends before training does.

        Args:
            epochs: Number of epochs of the run.

        Raises:
            UsageError: The warmup has `epochs` epochs or more.
        """
        if self.warmup_epochs >= epochs:
            raise UsageError(
                f"warmup_epochs must be less than epochs, which is {epochs}, got "
                f"{self.warmup_epochs}: train longer, or warm up for fewer epochs"
            )


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise a `UsageError` with the name of the option if a condition is false."""
    if not condition:
        raise UsageError(f"{name} must be {expected}, got {value!r}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `UsageError` that suggests a similar choice if a value is not one of the choices."""
    if value not in choices:
        close = _similar(value, choices)
        raise UsageError(
            f"{name} must be {either(choices)}, got {value!r}{hint(value, choices)}",
            correction=(value, close) if close else None,
        )


def either(choices: tuple[str, ...]) -> str:
    """Return the choices as one text such as `"a, b or c"`."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def hint(value: str, choices: tuple[str, ...]) -> str:
    """Return `"; did you mean 'x'?"` if a choice `x` is similar to the value, otherwise `""`."""
    close = _similar(value, choices)
    return f"; did you mean {close!r}?" if close else ""


def _similar(value: str, choices: tuple[str, ...]) -> str:
    """Return the choice that is similar to a value, in upper or lower case, or ""."""
    return next(iter(difflib.get_close_matches(value.lower(), choices, 1)), "")
