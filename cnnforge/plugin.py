"""The plugin author's API: the specs with which a plugin declares layers, datasets and so on.

A plugin is a module (or an object) with hook implementations that return specs. A spec names its
target as `"package.module:Attribute"`, which is imported when it is first used. So this module and
a manifest stay light: they load neither Keras nor TensorFlow nor Numba.

Example:
    ```python
    from cnnforge.plugin import LayerSpec, hookimpl

    CNNFORGE_PLUGIN_API = 1

    @hookimpl
    def cnnforge_layers():
        return [
            LayerSpec(
                name="conv2d",
                target="acme_layers.conv2d:Conv2D",
                summary="2D convolution by FFT",
                reference="keras.layers:Conv2D",
            )
        ]
    ```
"""

from __future__ import annotations

import pkgutil
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pluggy

from cnnforge.errors import PluginError, one_line

__all__ = [
    "PLUGIN_API",
    "AugmentationSpec",
    "CallbackSpec",
    "DatasetSpec",
    "LayerSpec",
    "ModelSpec",
    "Spec",
    "TaskSpec",
    "Work",
    "hookimpl",
]

PLUGIN_API = 1
"""The number of this plugin API. A plugin names the API that it was written for in its own
`CNNFORGE_PLUGIN_API`; without it, this one is assumed."""

hookimpl = pluggy.HookimplMarker("cnnforge")
"""Decorator that marks a function as the implementation of the hook of the same name."""

DEFAULT_TASK = "classification"
"""Name of the task of a model or a dataset that names none."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one pass of a layer: the minimum that its definition asks for.

    Each tensor is read or written once. A result that needs no computation, such as the gradient
    of a pixel that no window chose, is not counted. So a share of the machine's peak means the same
    for every implementation.

    Args:
        flops: Number of additions, multiplications and comparisons.
        bytes: Number of bytes that are read and written.
    """

    flops: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Declares a thing by its name and the place to import it from.

    Args:
        name: lower_snake_case, unique within the plugin and the kind of spec.
        target: `"package.module:Attribute"`, imported by the first `load()`.
        summary: One line, shown by `cnnforge plugins`.
        plugin: The name of the plugin; filled in when the spec is registered.

    Raises:
        ValueError: The name, the target or the summary does not have the form above.
    """

    kind: ClassVar[str] = "spec"

    name: str
    target: str
    summary: str
    plugin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                f"a {self.kind} cannot be named {self.name!r}: use lower_snake_case, "
                "a letter first, then letters, digits and underscores"
            )
        _check_target(f"the target of {self.kind} {self.name!r}", self.target)
        if not isinstance(self.summary, str) or "\n" in self.summary:
            raise ValueError(
                f"the summary of {self.kind} {self.name!r} must be one line of text, "
                f"got {self.summary!r}"
            )

    @property
    def qualified_name(self) -> str:
        """`"plugin/name"`, or the name alone while the spec is not registered."""
        return f"{self.plugin}/{self.name}" if self.plugin else self.name

    def load(self) -> Any:
        """Import the target.

        Returns:
            The object that the target names.

        Raises:
            PluginError: If the module cannot be imported or has no such attribute.
        """
        return self._resolve("target", self.target)

    def load_all(self) -> None:
        """Import everything that the spec names.

        Raises:
            PluginError: If a module cannot be imported or has no such attribute.
        """
        self.load()

    def _resolve(self, what: str, target: str) -> Any:
        try:
            return pkgutil.resolve_name(target)
        except (Exception, SystemExit) as error:
            owner = f"plugin {self.plugin!r}: " if self.plugin else ""
            raise PluginError(
                f"{owner}the {what} {target!r} of {self.kind} {self.name!r} cannot be loaded: "
                f"{one_line(error)}; `cnnforge plugins --imports` checks every plugin"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec(Spec):
    """Declares a Keras layer class.

    All arguments but the name, the target and the summary may be left out. `cnnforge bench` leaves
    a column empty if a layer does not say how to compute it.

    Args:
        reference: `"module:Class"` of the stock Keras layer that this one stands for, with the
            same constructor, weights and results. Conversion, parity checks and benchmarks need it.
        fuses: `"module:Class"` of two stock layers, one after the other, that this layer computes
            as one. Its class has a class method `fuse(first, second)`, which returns a layer for
            each of the two places (the second passes its inputs on), or `None` if the pair does
            not fit. Each of the two has `unfuse()`, which returns the stock layer again; that of
            the first takes `alone=True` if it stands for both.
        cases: `"module:CASES"` of a sequence of `cnnforge.testing.LayerCase`, the arguments and
            inputs for `cnnforge.testing.layer_checks` and `cnnforge plugins check`. `cnnforge
            doctor` checks the first one, so it should be a common one.
        benchmarks: `"module:BENCHMARKS"` of a sequence of `cnnforge.testing.LayerCase`, the
            arguments and input shapes for `cnnforge bench`. Without it, the cases that name a
            `speed_shape` are measured.
        work: `"module:function"` of `work(layer, shape, grad_inputs)`, which returns the `Work` of
            the pass `"forward"` and of the pass `"backward"` in a dict, or `None`. `layer` is the
            built reference, `shape` that of its inputs with the batch.
        torch: `"module:function"` of `torch_peer(layer, shape)`, which returns what a user of
            PyTorch would write for the reference: `compute(inputs, *weights)` and the list of
            weights, float32 arrays in PyTorch's order of axes; or `None` if there is no such thing.
            `inputs` of four dimensions are (N, C, H, W), and so are the outputs. With gradients
            enabled, `compute` takes a step of training.
    """

    kind: ClassVar[str] = "layer"

    reference: str | None = None
    fuses: tuple[str, str] | None = None
    cases: str | None = None
    benchmarks: str | None = None
    work: str | None = None
    torch: str | None = None

    def __post_init__(self) -> None:
        # The two-argument form: `slots=True` makes a new class, which `super()` does not know.
        super(LayerSpec, self).__post_init__()
        for what in ("reference", "cases", "benchmarks", "work", "torch"):
            target = getattr(self, what)
            if target is not None:
                _check_target(f"the {what} of {self.kind} {self.name!r}", target)
        for stock in self.fuses or ():
            _check_target(f"a fused layer of {self.kind} {self.name!r}", stock)

    def load_reference(self) -> Any:
        """Import the reference.

        Returns:
            The stock layer class, or `None` if the spec names none.

        Raises:
            PluginError: If the module cannot be imported or has no such attribute.
        """
        return self._optional("reference", self.reference)

    def load_fuses(self) -> tuple[Any, ...]:
        """Import the two stock layers that this one fuses.

        Returns:
            Their classes; empty if the spec names none.

        Raises:
            PluginError: If a module cannot be imported or has no such attribute.
        """
        return tuple(self._resolve("fused layer", stock) for stock in self.fuses or ())

    def load_cases(self) -> tuple[Any, ...]:
        """Import the cases that this layer is checked with.

        Returns:
            Objects of `cnnforge.testing.LayerCase`; empty if the spec names none.

        Raises:
            PluginError: If the module cannot be imported or has no such attribute.
        """
        return tuple(self._optional("cases", self.cases) or ())

    def load_benchmarks(self) -> tuple[Any, ...]:
        """Import the cases whose speed is measured.

        Returns:
            Objects of `cnnforge.testing.LayerCase`: the benchmarks, or else the cases that name a
            `speed_shape`.

        Raises:
            PluginError: If the module cannot be imported or has no such attribute.
        """
        if self.benchmarks is None:
            return tuple(case for case in self.load_cases() if case.speed_shape is not None)
        return tuple(self._optional("benchmarks", self.benchmarks))

    def load_work(self) -> Any:
        """Import the function that counts the work.

        Returns:
            The function, or `None` if the spec names none.

        Raises:
            PluginError: If the module cannot be imported or has no such attribute.
        """
        return self._optional("work", self.work)

    def load_torch(self) -> Any:
        """Import the function that builds PyTorch's counterpart.

        Returns:
            The function, or `None` if the spec names none.

        Raises:
            PluginError: If the module cannot be imported or has no such attribute.
        """
        return self._optional("torch", self.torch)

    def load_all(self) -> None:
        """Import everything that the spec names.

        Raises:
            PluginError: If a module cannot be imported or has no such attribute.
        """
        self.load()
        self.load_reference()
        self.load_fuses()
        self.load_cases()
        self.load_benchmarks()
        self.load_work()
        self.load_torch()

    def _optional(self, what: str, target: str | None) -> Any:
        return None if target is None else self._resolve(what, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec(Spec):
    """Declares a dataset: `load(argument: str | None, options: DataOptions) -> Dataset`.

    `argument` is the text after the colon in `images:FOLDER`; both types are in `cnnforge.data`.

    Args:
        task: Name of the task that its samples have targets for; the dataset says the same.
    """

    kind: ClassVar[str] = "dataset"

    task: str = DEFAULT_TASK


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Spec):
    """Declares a model: `build(input_shape, outputs) -> keras.Model`.

    `input_shape` is (height, width, channels); `outputs` is a number from the task: for a
    classification, the number of classes. A target that has a parameter `argument` gets the text
    after the colon in `cnnforge train NAME:ARGUMENT`, or `None`. The model reads raw pixel values
    0..255; a model for classification ends in a softmax.

    Args:
        task: Name of the task that its outputs are for.
        sizes: (height, width) of the images that it accepts. If empty, it accepts any size, or
            `build` raises a `ValueError` that explains the limit.
    """

    kind: ClassVar[str] = "model"

    task: str = DEFAULT_TASK
    sizes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec(Spec):
    """A task: the target is a subclass of `cnnforge.tasks.Task`.

    It says what a model learns from a dataset: targets, losses, metrics, evaluation, predictions.
    """

    kind: ClassVar[str] = "task"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackSpec(Spec):
    """Declares a callback of training: `make(argument: str | None) -> Callback`.

    `argument` is the text after the colon in `--callback early_stopping:5`; `Callback` is in
    `cnnforge.callbacks`.
    """

    kind: ClassVar[str] = "callback"


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationSpec(Spec):
    """Declares an augmentation: `make(argument: str | None) -> augment`.

    `argument` is the text after the colon in `--augment shift:2`. `augment(images, draws)` takes
    images, (N, H, W, C) uint8, which it must not write to, and their `cnnforge.data.Draws`, its
    only source of random numbers. It returns images of the same shape. If it moves pixels, it
    returns a pair: the images, and their transforms, (N, 2, 3) float32, in the coordinates of
    `cnnforge.data.transforms`.
    """

    kind: ClassVar[str] = "augmentation"


def _check_target(what: str, target: object) -> None:
    """Raise `ValueError` unless `target` reads `"package.module:Attribute"`."""
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        if all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
            return
    raise ValueError(f"{what} must look like 'package.module:Attribute', got {target!r}")
