"""The spec of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cnnforge.plugin.base import Spec, check_target


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
            measures those of `cases` that have a `speed_shape`, or all of `cases` if none has one.
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
                check_target(f"the {what} of {self.kind} {self.name!r}", target)
        if (self.fuses is None) != (self.places is None):
            given = f"fuses={self.fuses!r} and places={self.places!r}"
            raise ValueError(f"{self.kind} {self.name!r}: {given}: give both of them, or none")
        for path in (*(self.fuses or ()), *(self.places or ())):
            check_target(f"a fused layer of {self.kind} {self.name!r}", path)

    def load_reference(self) -> Any:
        """Import the stock Keras layer that this layer can replace.

        Returns:
            The stock layer class, or `None` if the spec does not name one.

        Raises:
            PluginError: The module cannot be imported or has no such attribute.
        """
        return self._optional("reference", self.reference)

    @property
    def own_reference(self) -> bool:
        """Whether the reference is not a class of Keras. Saved models contain it, so need it."""
        return self.reference is not None and not self.reference.startswith(("keras.", "keras:"))

    @property
    def stock_name(self) -> str:
        """Class name of the stock layer, or of both with a plus; "" if the spec names neither."""
        paths = self.fuses or (self.reference or "",)
        return "+".join(path.rpartition(":")[2] for path in paths)

    def load_fuses(self) -> tuple[Any, ...]:
        """Import the classes of the two stock Keras layers that this layer replaces as one.

        Returns:
            Their classes; empty if the spec does not name any.

        Raises:
            PluginError: A module cannot be imported or has no such attribute.
        """
        return tuple(self.resolve("fused layer", stock) for stock in self.fuses or ())

    def load_places(self) -> tuple[Any, ...]:
        """Import the classes of `places`, as `load_fuses` does those of `fuses`."""
        return tuple(self.resolve("place", place) for place in self.places or ())

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
        return None if target is None else self.resolve(what, target)
