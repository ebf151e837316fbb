"""The options of a training run, and where the value of each comes from. Imports nothing heavy."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cnnforge.errors import UsageError
from cnnforge.optimizer_options import OptimizerOptions, hint, one_of, require

KERNELS = ("auto", "numba", "keras")
COLORS = ("auto", "grayscale", "rgb")
# Options that a task takes or refuses.
TASK_OPTIONS = ("label_smoothing", "class_weights")
# TOML tables that a run's config.toml has besides the options.
_IGNORED = ("run",)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(OptimizerOptions):
    """The options of `cnnforge train`; `config.toml` holds them under the same names.

    Those of the optimizer are inherited.

    Args:
        model: A model, `NAME` or `NAME:ARGUMENT`; a name may be qualified.
        data: A reference to a dataset.
        epochs: How many times every training sample is visited.
        batch_size: Images per step.
        seed: Seed of the weights, the order of the samples and dropout; below 2**32.
        split_seed: Seed of the split into training and validation samples; by default `seed`.
        kernels: `"numba"`, `"keras"`, or `"auto"`: for each layer whichever is faster.
        output: Where run directories are made.
        image_size: `"HxW"` in pixels; `None`: the dataset's own.
        color: `"grayscale"`, `"rgb"`, or `"auto"`: what the images are.
        validation_fraction: Which part of the data is kept for validation.
        strict: Whether an unreadable file is an error instead of skipped and counted.
        init_from: A `.keras` file or a run whose weights are the initial ones.
        label_smoothing: Share of the probability that a label gives to all classes alike; 0: none.
        class_weights: `"balanced"`: every class adds as much to the loss as another; `None`: every
            image does.
        monitor: Metric of the validation samples that decides which epoch is the best one; `None`:
            the task's own choice.
        callback: Callbacks, `NAME` or `NAME:ARGUMENT`.
        augment: Augmentations of the training images, `NAME` or `NAME:ARGUMENT`, in their order.
        plugin: Plugins to load besides the installed ones.

    Raises:
        UsageError: A value is none of those.
    """

    model: str = "lenet"
    data: str = "mnist5k"
    epochs: int = 20
    batch_size: int = 64
    seed: int = 0
    # None stands for the seed until the object is made.
    split_seed: int = field(default=None)  # pyright: ignore[reportAssignmentType]
    kernels: str = "auto"
    output: str = "runs"
    image_size: str | None = None
    color: str = "auto"
    validation_fraction: float = 0.2
    strict: bool = False
    init_from: str | None = None
    label_smoothing: float = 0.0
    class_weights: str | None = None
    monitor: str | None = None
    callback: tuple[str, ...] = ()
    augment: tuple[str, ...] = ()
    plugin: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.split_seed is None:
            object.__setattr__(self, "split_seed", self.seed)
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        for name in ("seed", "split_seed"):
            value = getattr(self, name)
            require(0 <= value < 2**32, name, value, "0 to 4294967295")
        self.check_epochs(self.epochs)
        fraction = self.validation_fraction
        require(0 < fraction < 1, "validation_fraction", fraction, "between 0 and 1")
        smoothing, weights = self.label_smoothing, self.class_weights
        require(0 <= smoothing < 1, "label_smoothing", smoothing, "0 or more and below 1")
        require(weights in (None, "balanced"), "class_weights", weights, "'balanced'")
        for name, choices in (("kernels", KERNELS), ("color", COLORS)):
            one_of(name, getattr(self, name), choices)
        _ = self.height_and_width

    @property
    def height_and_width(self) -> tuple[int, int] | None:
        """`image_size` as numbers."""
        if self.image_size is None:
            return None
        match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", self.image_size)
        if match is None:
            raise UsageError(
                f"image_size must be HEIGHTxWIDTH in pixels, for instance 28x28, got "
                f"{self.image_size!r}"
            )
        return int(match[1]), int(match[2])

    @property
    def task_options(self) -> dict[str, Any]:
        """Options of a task that differ from their defaults, by name."""
        values = {name: getattr(self, name) for name in TASK_OPTIONS}
        return {name: value for name, value in values.items() if value}

    def as_dict(self) -> dict[str, Any]:
        """Return the options by name; tuples as lists."""
        values = {name: getattr(self, name) for name in NAMES}
        return {name: list(it) if isinstance(it, tuple) else it for name, it in values.items()}


# A class's own options come before the inherited ones.
NAMES = (*TrainingOptions.__annotations__, *OptimizerOptions.__annotations__)


def read_config(path: Path) -> dict[str, Any]:
    """Read options from a TOML file such as a run's `config.toml`.

    Args:
        path: The file. Its keys are the names of `TrainingOptions`; hyphens do for underscores.
            A table `run`, which describes a finished run, is left out.

    Returns:
        The options that stand there.

    Raises:
        UsageError: The file cannot be read, a key is no option, or a value has the wrong type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the config {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"the config {path} is not TOML: {error}") from error
    return check_types({k: v for k, v in content.items() if k not in _IGNORED}, str(path))


def check_types(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check that values are options and have their types.

    Args:
        values: By name; hyphens do for underscores.
        source: Where they stand, for the message.

    Returns:
        The values under the names of `TrainingOptions`; a whole number where a fraction is wanted
        becomes one, a list a tuple.

    Raises:
        UsageError: A name or a type is wrong.
    """
    checked = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in NAMES:
            known = hint(name, NAMES) or f"; there are: {', '.join(NAMES)}"
            raise UsageError(f"{source}: there is no option {key!r}{known}")
        checked[name] = _typed(name, value, source)
    return checked


def resolve(
    given: Mapping[str, Any], configured: Mapping[str, Any]
) -> tuple[TrainingOptions, dict[str, str]]:
    """Put the options together: command line over config file over defaults.

    Args:
        given: What stood on the command line.
        configured: What stood in the config file.

    Returns:
        The options, and for each `"command line"`, `"config"` or `"default"`.

    Raises:
        UsageError: A value is out of range.
    """
    origins = {
        name: "command line" if name in given else "config" if name in configured else "default"
        for name in NAMES
    }
    return TrainingOptions(**{**configured, **given}), origins


def parse_epochs(text: str, before: int | None = None) -> int:
    """Read a number of epochs.

    Args:
        text: `"20"`, or `"+10"`: ten more than `before`.
        before: How many the run was going to have; `None` for a new run.

    Returns:
        The number.

    Raises:
        UsageError: It is no such number, or something is to be added to nothing.
    """
    more = text.startswith("+")
    digits = text[more:]
    if not (digits.isascii() and digits.isdigit() and int(digits)):
        raise UsageError(
            f"epochs must be 1 or more, such as 20, or +10 with --resume, got {text!r}"
        )
    if not more:
        return int(digits)
    if before is None:
        raise UsageError(f"--epochs {text} adds to a run: name it with --resume RUN")
    return before + int(digits)


def _typed(name: str, value: Any, source: str) -> Any:
    wanted = {it.name: str(it.type) for it in fields(TrainingOptions)}[name]
    wanted = wanted.removesuffix(" | None")
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted.startswith("tuple"):
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise UsageError(f"{source}: {name} must be a list of texts, got {value!r}")
    types = {"str": str, "int": int, "float": float, "bool": bool}
    if type(value) is not types[wanted]:
        described = {"str": "a text", "int": "a whole number", "float": "a number"}
        expected = described.get(wanted, "true or false")
        raise UsageError(f"{source}: {name} must be {expected}, got {value!r}")
    return value
