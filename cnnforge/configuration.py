"""Define and check the options of `cnnforge train`, and merge their values from three sources.

The sources are the command line, a config file, and the defaults. Importing this module does not
import Keras.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cnnforge.errors import UsageError, message_of
from cnnforge.fine_tuning_options import FineTuningOptions
from cnnforge.optimizer_options import OptimizerOptions, hint, one_of, require
from cnnforge.output_options import OutputOptions
from cnnforge.utils.names import from_its_weights, unescaped
from cnnforge.utils.structured_text import read_toml

KERNELS = ("auto", "numba", "keras")
COLORS = ("auto", "grayscale", "rgb")
# Options that are passed to the task, such as classification. A task that does not support one of
# them raises an error.
TASK_OPTIONS = ("label_smoothing", "class_weights")
AUGMENT_PRESETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "light": ("flip", "shift:0.1"),
    "strong": ("flip", "crop:0.7", "randaugment:0.5", "erasing:0.25"),
}
"""Names for `augment` that stand for several augmentations."""
# Tables in the config.toml of a run that do not contain options, so they are not read.
_IGNORED = ("run",)
_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_SIZE = re.compile(r"([1-9][0-9]{0,4})(?:(?:\s*[xX\u00d7*,]\s*|\s+)([1-9][0-9]{0,4}))?")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(OutputOptions, FineTuningOptions, OptimizerOptions):
    """The options of `cnnforge train`, which have the same names in `config.toml`.

    The options of the optimizer are inherited from `OptimizerOptions`, those of pretrained weights
    from `FineTuningOptions`, and those of further files from `OutputOptions`.

    Args:
        model: Name of a model, `NAME` or `NAME:ARGUMENT`; the name may be qualified. `None`: the
            size of the images decides, see `cnnforge.training.choice`.
        data: A reference to a dataset.
        epochs: Number of epochs, 1 or more.
        batch_size: Number of images per training step, 1 or more.
        seed: Random seed of the weights, the order of the samples and dropout; below 2**32.
        split_seed: Random seed of the validation split; by default `seed`.
        kernels: `"numba"`, `"keras"`, or `"auto"`: the faster of the two for each layer.
        output: Folder in which run directories are made.
        image_size: Size of the images, `"HxW"` in pixels, or one number for both; `None`: the size
            of the dataset.
        color: `"grayscale"`, `"rgb"`, or `"auto"`: the color mode of the dataset.
        validation_fraction: Fraction of the samples used for validation, more than 0 and
            less than 1.
        strict: Whether an unreadable file is an error. If false, it is skipped and counted.
        drop_duplicates: Whether exact copies of images are left out, see
            `cnnforge.data.drop_duplicates`.
        cache: Whether decoded images are kept in a file in the cache folder.
        init_from: A run, a `.keras` file or a `.weights.h5` file with the initial weights.
        label_smoothing: Label smoothing factor, from 0 (off) to below 1.
        class_weights: `"balanced"`: the weight of a sample in the loss is inversely proportional to
            the frequency of its class. `None`: all samples have the same weight.
        monitor: Validation metric that selects the best epoch; `None`: the default of the task.
        callback: Names of callbacks, `NAME` or `NAME:ARGUMENT`.
        augment: Names of the augmentations of the training images, `NAME` or `NAME:ARGUMENT`, in
            the order in which they are applied. A name of `AUGMENT_PRESETS` is replaced by the
            augmentations that it stands for.
        plugin: Plugins to load in addition to the installed ones.

    Raises:
        UsageError: A value is unknown or out of range.
    """

    model: str | None = None
    data: str = "mnist5k"
    epochs: int = 20
    batch_size: int = 64
    seed: int = 0
    # `__post_init__` replaces None by `seed`.
    split_seed: int = field(default=None)  # pyright: ignore[reportAssignmentType]
    kernels: str = "auto"
    output: str = "runs"
    image_size: str | None = None
    color: str = "auto"
    validation_fraction: float = 0.2
    strict: bool = False
    drop_duplicates: bool = False
    cache: bool = False
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
        object.__setattr__(self, "augment", expand_presets(self.augment))
        if self.split_seed is None:
            object.__setattr__(self, "split_seed", self.seed)
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        for name in ("seed", "split_seed"):
            value = getattr(self, name)
            require(0 <= value < 2**32, name, value, "0 to 4294967295")
        self.check_epochs(self.epochs)
        self.check_fine_tuning()
        self.check_output()
        if self.weights not in (None, "none") and self.init_from is not None:
            raise UsageError(
                f"weights is {self.weights} and init_from is {self.init_from}: give one of them"
            )
        fraction = self.validation_fraction
        expected = "more than 0 and less than 1, such as 0.2"
        if 1 < fraction < 100:
            expected += f" ({fraction:g} percent is {fraction / 100:g})"
        require(0 < fraction < 1, "validation_fraction", fraction, expected)
        smoothing, weights = self.label_smoothing, self.class_weights
        require(0 <= smoothing < 1, "label_smoothing", smoothing, "0 or more and less than 1")
        require(weights in (None, "balanced"), "class_weights", weights, "'balanced'")
        for name, choices in (("kernels", KERNELS), ("color", COLORS)):
            one_of(name, getattr(self, name), choices)
        if size := self.height_and_width:
            object.__setattr__(self, "image_size", f"{size[0]}x{size[1]}")

    @property
    def height_and_width(self) -> tuple[int, int] | None:
        """`image_size` as (height, width) in pixels, or `None`."""
        if self.image_size is None:
            return None
        return parse_size(self.image_size)

    @property
    def task_options(self) -> dict[str, Any]:
        """The options for the task (`TASK_OPTIONS`) that differ from their defaults, by name."""
        values = {name: getattr(self, name) for name in TASK_OPTIONS}
        return {name: value for name, value in values.items() if value}

    def as_dict(self) -> dict[str, Any]:
        """Return the options by name, with tuples converted to lists."""
        values = {name: getattr(self, name) for name in NAMES}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


# The names of all options, in the order in which config.toml lists them. The inherited options come
# last.
NAMES = tuple(
    name
    for kind in (TrainingOptions, OutputOptions, FineTuningOptions, OptimizerOptions)
    for name in kind.__annotations__
)


def parse_size(text: str) -> tuple[int, int]:
    """Parse the size of images.

    Args:
        text: `"28x32"`, height and width in pixels, or one number for both. Between the numbers, a
            comma, a space, `*` and a capital `X` are read as `x`.

    Returns:
        The height and the width.

    Raises:
        UsageError: The text has another form.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            "image_size must be HEIGHTxWIDTH in pixels, such as 28x32, or one number for both, "
            f"such as 28, got {text!r}"
        )
    return int(match[1]), int(match[2] or match[1])


def expand_presets(names: Sequence[str]) -> tuple[str, ...]:
    """Replace presets of augmentations by the augmentations that they stand for.

    Args:
        names: Names of augmentations, `NAME` or `NAME:ARGUMENT`, and of presets.

    Returns:
        The names of augmentations, in the same order.

    Raises:
        UsageError: `none` is given with another name.
    """
    if "none" in names and len(names) > 1:
        others = ", ".join(name for name in names if name != "none") or "none"
        raise UsageError(
            f"augment has 'none' and {others}: leave out 'none' to augment the images, or the "
            "others to leave the images as they are"
        )
    expanded = [each for name in names for each in AUGMENT_PRESETS.get(name, (name,))]
    return tuple(expanded)


def parse_time(text: str, option: str = "--time-limit") -> float:
    """Parse a length of time.

    Args:
        text: Hours, minutes and seconds: `"2h"`, `"30m"`, `"90s"` or `"1h30m"`.
        option: Name of the option, for messages.

    Returns:
        The time in seconds, more than 0.

    Raises:
        UsageError: The text has another form.
    """
    match = _TIME.fullmatch(text.strip().lower())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise UsageError(f"{option} must be a time such as 90s, 30m, 2h or 1h30m, got {text!r}")
    return total


def read_config(path: Path) -> dict[str, Any]:
    """Read options from a TOML file such as a run's `config.toml`.

    Args:
        path: The file. Its keys are the fields of `TrainingOptions`, with underscores or hyphens.
            The table `run`, which describes the run itself, is ignored.

    Returns:
        The options in the file, by name.

    Raises:
        UsageError: The file cannot be read, a key is not an option, or a value has the wrong type.
    """
    if os.path.isdir(path):
        raise UsageError(
            f"the config {path} is a folder: name a file in it, such as {path / 'config.toml'}"
        )
    try:
        content = unescaped(read_toml(path))
    except OSError as error:
        raise UsageError(f"the config {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"the config {path} is not TOML: {message_of(error)}") from error
    return check_types({k: v for k, v in content.items() if k not in _IGNORED}, str(path))


def check_types(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check the names and types of options. Return the options with converted types.

    Args:
        values: Values of options by name, with underscores or hyphens.
        source: Origin of the values for the error message, for instance the path of a file.

    Returns:
        The values by the field names of `TrainingOptions`. An int is converted to a float if the
        option is a float, and a list is converted to a tuple.

    Raises:
        UsageError: A name is not an option, or a value has the wrong type.
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
    given: Mapping[str, Any],
    configured: Mapping[str, Any],
    of_model: Mapping[str, Any] | None = None,
) -> tuple[TrainingOptions, dict[str, str]]:
    """Merge the options: the command line overrides the config file, which overrides the defaults.

    Args:
        given: Options from the command line, by name.
        configured: Options from the config file, by name.
        of_model: Defaults that the model declares, by name; other options have the general ones.

    Returns:
        Two values: the options, and a dictionary from the name of each option to its source, which
        is `"command line"`, `"config"`, `"model"` or `"default"`.

    Raises:
        UsageError: A value is out of range.
    """
    sources = {"model": of_model or {}, "config": configured, "command line": given}
    origins = dict.fromkeys(NAMES, "default")
    values: dict[str, Any] = {}
    for origin, own in sources.items():
        origins |= dict.fromkeys(own, origin)
        values |= own
    return TrainingOptions(**values), origins


def parse_epochs(text: str, before: int | None = None) -> int:
    """Parse a number of epochs.

    Args:
        text: A number such as `"20"`, or `"+10"` for ten more than `before`.
        before: Number of epochs of the run to resume; `None` for a new run.

    Returns:
        The number of epochs, 1 or more.

    Raises:
        UsageError: `text` has another form, or begins with `+` and `before` is `None`.
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


def epochs_of_resumed(options: TrainingOptions, text: str | None, run: Path) -> int:
    """Return the total number of epochs of a run that is resumed.

    Args:
        options: Options of the run.
        text: Value of `--epochs`, see `parse_epochs`. `None`: the same number as before.
        run: The run directory, for the error message.

    Returns:
        The number of epochs, 1 or more.

    Raises:
        UsageError: The text is not a number of epochs, or it would change the number and the
            learning rate schedule depends on this number.
    """
    before = options.epochs
    total = before if text is None else parse_epochs(text, before)
    if total != before and options.ends:
        raise UsageError(
            f"the run {run} has epochs = {before}, not {total}, and schedule = "
            f"{options.schedule}: this schedule depends on the number of epochs; "
            f"{from_its_weights(run)}, or leave --epochs out to finish this one"
        )
    return total


def _typed(name: str, value: Any, source: str) -> Any:
    types_by_name = {option.name: str(option.type) for option in fields(TrainingOptions)}
    wanted = types_by_name[name].removesuffix(" | None")
    if name == "image_size":
        # The size is stored, and compared with that of a run, in one form.
        height, width = parse_size(value if isinstance(value, str) else repr(value))
        return f"{height}x{width}"
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted.startswith("tuple"):
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            # The augmentations are stored, and compared with those of a run, without presets.
            return expand_presets(value) if name == "augment" else tuple(value)
        raise UsageError(f"{source}: {name} must be a list of strings, got {value!r:.200}")
    types = {"str": str, "int": int, "float": float, "bool": bool}
    if type(value) is not types[wanted]:
        described = {"str": "a string", "int": "an integer", "float": "a number"}
        expected = described.get(wanted, "true or false")
        raise UsageError(f"{source}: {name} must be {expected}, got {value!r:.200}")
    return value
