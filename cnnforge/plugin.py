"""The plugin author's API: what a plugin needs in order to declare what it brings.

A plugin is a module (or an object) with hook implementations that return specs. A spec names its
target as `"package.module:Attribute"`; nothing is imported before somebody uses it, so this module
and a manifest stay light: neither Keras nor TensorFlow nor Numba is loaded by them.

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

PLUGIN_API = 1
"""The number of this plugin API. A plugin names the one it was written for in its own
`CNNFORGE_PLUGIN_API`; without it, this one is assumed."""

hookimpl = pluggy.HookimplMarker("cnnforge")
"""Decorator that marks a function as the implementation of the hook of the same name."""

DEFAULT_TASK = "classification"
"""Name of the task of a model or a dataset that names none."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a plugin declares: a name, and where to find what it stands for.

    Args:
        name: lower_snake_case, unique within the plugin and the kind of spec.
        target: `"package.module:Attribute"`, imported by the first `load()`.
        summary: One line, shown by `cnnforge plugins`.
        plugin: The name of the plugin; filled in when the spec is registered.

    Raises:
        ValueError: If the name, the target or the summary has not the form above.
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
            What the target names.

        Raises:
            PluginError: If the module cannot be imported or has no such attribute.
        """
        return self._resolve("target", self.target)

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
    """A Keras layer class.

    Args:
        reference: `"module:Class"` of the stock Keras layer that this one stands for, with the
            same constructor, weights and results; `None` where there is none. Conversion, parity
            checks and benchmarks go by it.
        fuses: `"module:Class"` of two stock layers, one behind the other, that this layer computes
            as one. Its class then has a class method `fuse(first, second)`, which returns a layer
            for each of the two places (the second passes its inputs on), or `None` where the pair
            does not fit; each of the two has `unfuse()`, which returns the stock layer again, and
            that of the first takes `alone=True` where it stands for both.
        cases: `"module:CASES"` of a sequence of `cnnforge.testing.LayerCase`, which say with what
            arguments and inputs the layer is checked by `cnnforge.testing.layer_checks` and
            `cnnforge plugins check`; `None` where the author has named none.
    """

    kind: ClassVar[str] = "layer"

    reference: str | None = None
    fuses: tuple[str, str] | None = None
    cases: str | None = None

    def __post_init__(self) -> None:
        # The two-argument form: `slots=True` makes a new class, which `super()` does not know.
        super(LayerSpec, self).__post_init__()
        if self.reference is not None:
            _check_target(f"the reference of {self.kind} {self.name!r}", self.reference)
        for stock in self.fuses or ():
            _check_target(f"what {self.kind} {self.name!r} fuses", stock)
        if self.cases is not None:
            _check_target(f"the cases of {self.kind} {self.name!r}", self.cases)

    def load_reference(self) -> Any:
        """Import the reference.

        Returns:
            The stock layer class, or `None` where the spec names none.

        Raises:
            PluginError: If the module cannot be imported or has no such attribute.
        """
        return None if self.reference is None else self._resolve("reference", self.reference)

    def load_fuses(self) -> tuple[Any, ...]:
        """Import the two stock layers that this one fuses.

        Returns:
            Their classes, or nothing where the spec names none.

        Raises:
            PluginError: If a module cannot be imported or has no such attribute.
        """
        return tuple(self._resolve("fused layer", stock) for stock in self.fuses or ())

    def load_cases(self) -> tuple[Any, ...]:
        """Import the cases that this layer is checked with.

        Returns:
            Objects of `cnnforge.testing.LayerCase`; nothing where the spec names none.

        Raises:
            PluginError: If the module cannot be imported or has no such attribute.
        """
        return () if self.cases is None else tuple(self._resolve("cases", self.cases))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec(Spec):
    """A dataset: the target is `load(argument: str | None, options: DataOptions) -> Dataset`.

    `argument` is what stood after the colon in `images:FOLDER`; the two types are those of
    `cnnforge.data`.

    Args:
        task: Name of the task that its samples have targets for; the dataset says the same.
    """

    kind: ClassVar[str] = "dataset"

    task: str = DEFAULT_TASK


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Spec):
    """A model: the target is `build(input_shape, outputs) -> keras.Model`.

    `input_shape` is (height, width, channels); `outputs` is a number that the task says: of a
    classification, the number of classes. A target that has a parameter `argument` is given what
    stood after the colon in `cnnforge train NAME:ARGUMENT`, or `None`. The model reads raw pixel
    values 0..255; that of a classification ends in a softmax.

    Args:
        task: Name of the task that its outputs are for.
        sizes: (height, width) of the images that it accepts; empty: any size, or `build` raises a
            `ValueError` that says what is wrong.
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
    """A callback of training: the target is `make(argument: str | None) -> Callback`.

    `argument` is what stood after the colon in `--callback early_stopping:5`; `Callback` is that
    of `cnnforge.callbacks`.
    """

    kind: ClassVar[str] = "callback"


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationSpec(Spec):
    """An augmentation: the target is `make(argument: str | None) -> augment`.

    `argument` is what stood after the colon in `--augment shift:2`; `augment(images, draws)` takes
    images, (N, H, W, C) uint8, which it must not write to, and the `cnnforge.data.Draws` of these
    images, its only source of chance, and returns images of the same shape. One that moves pixels
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
