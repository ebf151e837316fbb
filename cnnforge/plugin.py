"""The API for plugin authors: the specs that a plugin returns, and the hook decorator.

A plugin is a module (or an object) with functions, called hooks, that return specs. A spec declares
one thing, such as a layer, and contains its import path, `"package.module:Attribute"`. cnnforge
imports this object, the target of the spec, when it is first used. This module and the module with
the hooks therefore need not import Keras, TensorFlow or Numba.

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
from cnnforge.pretrained import PretrainedWeights
from cnnforge.work import Work

__all__ = [
    "PLUGIN_API",
    "AugmentationSpec",
    "CallbackSpec",
    "DatasetSpec",
    "LayerSpec",
    "ModelSpec",
    "PretrainedWeights",
    "Spec",
    "TaskSpec",
    "Work",
    "hookimpl",
]

PLUGIN_API = 1
"""Version of this plugin API. A plugin declares the version that it was written for as
`CNNFORGE_PLUGIN_API`; the default is this version."""

hookimpl = pluggy.HookimplMarker("cnnforge")
"""Decorator that marks a function as an implementation of the hook with the same name."""

DEFAULT_TASK = "cnnforge/classification"
"""Name of the task of models and datasets that do not name one. It is qualified, because a plugin
may have a task `classification` too."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """Base class of specs. A spec declares the name and the import path of one thing in a plugin.

    Args:
        name: Name in lower_snake_case, unique among the specs of the same kind in the plugin.
        target: Import path `"package.module:Attribute"` of the object that the spec declares.
        summary: Description in one line, shown by `cnnforge plugins`.
        plugin: Name of the plugin, set when the spec is registered.

    Raises:
        ValueError: The name, the target or the summary does not have the form given above.
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
        """`"plugin/name"`, or the name alone if the spec is not registered yet."""
        return f"{self.plugin}/{self.name}" if self.plugin else self.name

    def load(self) -> Any:
        """Import the object that the spec declares.

        Returns:
            The object at the import path `target`.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return self._resolve("target", self.target)

    def load_all(self) -> None:
        """Import everything that the spec names.

        Raises:
            PluginError: A module cannot be imported or has no such attribute.
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

    All arguments except name, target and summary are optional. If `work` or `torch` is missing,
    `cnnforge bench` leaves the columns that need it empty.

    Args:
        reference: Import path `"module:Class"` of the stock Keras layer with the same constructor,
            weights and results. Conversion, parity checks and benchmarks use it. Give the plugin
            layer the class name of the stock layer: Keras names the groups of a `.weights.h5` file
            after the classes.
        fuses: Import paths `"module:Class"` of two consecutive stock layers that this layer
            computes as one. The class then needs a class method `fuse(first, second)`. It returns
            an unbuilt layer of this class with the name and the weights of the first layer, or
            `None` if this layer cannot compute the pair. A method `split()` returns the two stock
            layers.
        places: Import paths `"module:Class"` of the two layer classes that replace the layers of
            `fuses` in a model. Each has the constructor, the weights and the results of its stock
            layer. When a TensorFlow graph is built, the second one finds the inputs of the first
            one with `cnnforge.ops.ArrayOp.call_of`, and computes both layers from these inputs.
            TensorFlow then computes the first one only if something else reads its outputs. In
            eager mode each of the two layers computes its own outputs.
        cases: Import path `"module:CASES"` of a sequence of `cnnforge.testing.LayerCase`: the
            arguments and inputs with which `cnnforge.testing.layer_checks` and
            `cnnforge plugins check` check the layer. `cnnforge doctor` checks only the first case,
            so this should be a common use of the layer.
        benchmarks: Import path `"module:BENCHMARKS"` of a sequence of `cnnforge.testing.LayerCase`:
            the arguments and input shapes for `cnnforge bench`. By default, `cnnforge bench`
            measures those of `cases` that have a `speed_shape`.
        work: Import path `"module:function"` of a function `work(layer, shape, grad_inputs)`. It
            returns a dictionary with the `Work` of the passes `"forward"` and `"backward"`, or
            `None` if the work is unknown. `layer` is the stock layer, already built. `shape` is the
            shape of its inputs, including the batch axis. `grad_inputs` tells whether the backward
            pass computes the gradient of the inputs.
        torch: Import path `"module:function"` of a function `torch_peer(layer, shape)`. It returns
            two values: a function `compute(inputs, *weights)` that computes the stock layer in
            PyTorch, and the list of its weights, float32 arrays with the axis order of PyTorch. It
            returns `None` if PyTorch has no equivalent. Four-dimensional inputs and outputs are
            (N, C, H, W). `compute` must work as in training if `torch.is_grad_enabled()`, otherwise
            as in inference.
    """

    kind: ClassVar[str] = "layer"

    reference: str | None = None
    fuses: tuple[str, str] | None = None
    places: tuple[str, str] | None = None
    cases: str | None = None
    benchmarks: str | None = None
    work: str | None = None
    torch: str | None = None

    def __post_init__(self) -> None:
        # `slots=True` makes a new class, so `super()` without arguments, which refers to the old
        # class, would fail here.
        super(LayerSpec, self).__post_init__()
        for what in ("reference", "cases", "benchmarks", "work", "torch"):
            target = getattr(self, what)
            if target is not None:
                _check_target(f"the {what} of {self.kind} {self.name!r}", target)
        if (self.fuses is None) != (self.places is None):
            given = f"fuses={self.fuses!r} and places={self.places!r}"
            raise ValueError(f"{self.kind} {self.name!r}: {given}: give both of them, or none")
        for path in (*(self.fuses or ()), *(self.places or ())):
            _check_target(f"a fused layer of {self.kind} {self.name!r}", path)

    def load_reference(self) -> Any:
        """Import the stock Keras layer that this layer can replace.

        Returns:
            The stock layer class, or `None` if the spec does not name one.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return self._optional("reference", self.reference)

    def load_fuses(self) -> tuple[Any, ...]:
        """Import the classes of the two stock Keras layers that this layer replaces as one.

        Returns:
            Their classes; empty if the spec does not name any.

        Raises:
            PluginError: A module cannot be imported or has no such attribute.
        """
        return tuple(self._resolve("fused layer", stock) for stock in self.fuses or ())

    def load_places(self) -> tuple[Any, ...]:
        """Import the classes of `places`, as `load_fuses` does those of `fuses`."""
        return tuple(self._resolve("place", place) for place in self.places or ())

    def load_cases(self) -> tuple[Any, ...]:
        """Import the cases (arguments and inputs) with which this layer is checked.

        Returns:
            The `cnnforge.testing.LayerCase` objects; empty if the spec does not name any.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return tuple(self._optional("cases", self.cases) or ())

    def load_benchmarks(self) -> tuple[Any, ...]:
        """Import the cases (arguments and inputs) with which the speed of this layer is measured.

        Returns:
            The `cnnforge.testing.LayerCase` objects of `benchmarks`. If the spec does not have
            `benchmarks`, those of `cases` that have a `speed_shape`.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        if self.benchmarks is None:
            return tuple(case for case in self.load_cases() if case.speed_shape is not None)
        return tuple(self._optional("benchmarks", self.benchmarks))

    def load_work(self) -> Any:
        """Import the function that returns the `Work` of the layer's passes.

        Returns:
            The function, or `None` if the spec does not name one.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return self._optional("work", self.work)

    def load_torch(self) -> Any:
        """Import the function that returns the equivalent of the layer in PyTorch.

        Returns:
            The function, or `None` if the spec does not name one.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return self._optional("torch", self.torch)

    def load_all(self) -> None:
        """Import everything that the spec names.

        Raises:
            PluginError: A module cannot be imported or has no such attribute.
        """
        self.load()
        self.load_reference()
        self.load_fuses()
        self.load_places()
        self.load_cases()
        self.load_benchmarks()
        self.load_work()
        self.load_torch()

    def _optional(self, what: str, target: str | None) -> Any:
        return None if target is None else self._resolve(what, target)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec(Spec):
    """Declares a dataset: `load(argument: str | None, options: DataOptions) -> Dataset`.

    `argument` is the text after the colon, as in `images:FOLDER`. `DataOptions` and `Dataset` are
    classes of `cnnforge.data`.

    Args:
        task: Name of the task whose targets the samples have; the same as `Dataset.task`.
        downloads: Whether `load` may download files when it gets no argument. A check of the whole
            plugin does not call it then.
    """

    kind: ClassVar[str] = "dataset"

    task: str = DEFAULT_TASK
    downloads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Spec):
    """Declares a model: `build(input_shape, outputs) -> keras.Model`.

    `input_shape` is (height, width, channels). `outputs` is the `Task.output_size` of the task: for
    a classification, the number of classes. If `build` has a parameter `argument`, this parameter
    gets the text after the colon in `cnnforge train NAME:ARGUMENT`, and must have a default. The
    model takes raw pixel values 0..255. A classifier must end in a softmax.

    Args:
        task: Name of the task for which the model computes outputs.
        sizes: (height, width) of each image size that the model accepts. Empty: `build` raises a
            `ValueError` for a size that it does not accept.
        max_default_size: Max height and width in pixels unless the user gives `--image-size`.
        weights: Import path `"module:WEIGHTS"` of a `PretrainedWeights`, if there are any.
    """

    kind: ClassVar[str] = "model"

    task: str = DEFAULT_TASK
    sizes: tuple[tuple[int, int], ...] = ()
    max_default_size: int = 224
    weights: str | None = None

    def __post_init__(self) -> None:
        super(ModelSpec, self).__post_init__()
        if type(self.max_default_size) is not int or self.max_default_size < 1:
            received = f"the max_default_size of model {self.name!r} is {self.max_default_size!r}"
            raise ValueError(f"{received}: it must be a number of pixels, 1 or more")
        if self.weights is not None:
            _check_target(f"the weights of {self.kind} {self.name!r}", self.weights)

    def load_weights(self) -> PretrainedWeights | None:
        """Import the description of the pretrained weights; `None` if the spec names none.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return None if self.weights is None else self._resolve("weights", self.weights)

    def load_all(self) -> None:
        """Import everything that the spec names, or raise a `PluginError`."""
        self.load()
        self.load_weights()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec(Spec):
    """Declares a task. The target is a subclass of `cnnforge.tasks.Task`.

    A task defines targets, losses, metrics, evaluation and predictions.
    """

    kind: ClassVar[str] = "task"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackSpec(Spec):
    """Declares a training callback: `make(argument: str | None) -> Callback`.

    `argument` is the text after the colon, as in `--callback early_stopping:5`. `Callback` is the
    class of `cnnforge.callbacks`.
    """

    kind: ClassVar[str] = "callback"


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationSpec(Spec):
    """Declares an augmentation: `make(argument: str | None) -> augment`.

    `argument` is the text after the colon, as in `--augment shift:2`. The returned function
    `augment(images, draws)` gets images, (N, H, W, C) uint8, and their `cnnforge.data.Draws`, and
    returns images of the same shape. It must not write to `images`, and must take all random
    numbers from `draws`. If it moves pixels, it must return two values: the images, and the affine
    transform of each, (N, 2, 3) float32, in the coordinates of `cnnforge.data.transforms`. To mix
    images with other training images, `make` returns a `cnnforge.data.Mixing`, not a function.
    """

    kind: ClassVar[str] = "augmentation"


def _check_target(what: str, target: object) -> None:
    """Raise a `ValueError` unless `target` has the form `"package.module:Attribute"`."""
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        if all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
            return
    raise ValueError(f"{what} must look like 'package.module:Attribute', got {target!r}")
