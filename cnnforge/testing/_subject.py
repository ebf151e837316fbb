"""A layer in one case: made, given weights and inputs, run."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras.ops import cast

from cnnforge.backends import pullback
from cnnforge.errors import one_line
from cnnforge.plugin import LayerSpec
from cnnforge.testing.cases import LayerCase

Array = np.ndarray[Any, Any]
INPUTS = "the inputs"


@dataclass(frozen=True, kw_only=True)
class ClassSpec(LayerSpec):
    """A spec whose classes are at hand."""

    layer: Any = None
    stock: Any = None

    def load(self) -> Any:
        """The class."""
        return self.layer if self.layer is not None else LayerSpec.load(self)

    def load_reference(self) -> Any:
        """The reference."""
        return self.stock if self.stock is not None else LayerSpec.load_reference(self)


@dataclass(frozen=True)
class Subject:
    """A layer in one case.

    Attributes:
        spec: The layer's.
        case: The case.
    """

    spec: LayerSpec
    case: LayerCase

    def make(self, **changes: Any) -> Any:
        """A new layer, not built.

        Args:
            **changes: Arguments that differ from the case's, or come on top.
        """
        with _seeded():
            return self.spec.load()(**{**self.case.arguments, **changes})

    def built(self, **changes: Any) -> Any:
        """A new layer with weights that are the same every time, and none of them zero."""
        layer = self.make(**changes)
        with _seeded():
            if not layer.built:
                layer.build(self.case.input_shape)
        generator = np.random.default_rng(1)
        for weight in layer.weights:
            value = numpy(weight)
            noise = generator.standard_normal(value.shape)
            if keras.backend.is_float_dtype(weight.dtype):
                # Near what the author begins with: a width may have to be positive.
                scale = float(np.sqrt(np.mean(value.astype(np.float64) ** 2))) or 1.0
                weight.assign((value + 0.1 * scale * noise).astype(np.float32))
        return layer

    def inputs(self, batch: int | None = None, seed: int = 2) -> Array:
        """Inputs, float32.

        Args:
            batch: How many; as many as the case has by default.
            seed: Others for another one.
        """
        shape = self.case.input_shape if batch is None else (batch, *self.case.input_shape[1:])
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    @property
    def terms(self) -> int:
        """K of one element of the outputs."""
        return self.case.terms or max(1, math.prod(self.case.input_shape[1:]))

    def grad_terms(self, gradient: Array, outputs: Array) -> int:
        """K of one element of a gradient: all products of the outputs, shared out."""
        return max(1, math.ceil(self.terms * outputs.size / max(1, gradient.size)))


@contextmanager
def _seeded() -> Iterator[None]:
    # An initializer without a seed takes one from here.
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def tensor(array: Array) -> Any:
    """A tensor of a copy of the array, which TensorFlow would otherwise share."""
    return keras.ops.convert_to_tensor(np.array(array))


def numpy(value: Any) -> Array:
    """A copy of a tensor or variable; bfloat16, which NumPy does not know, as float32."""
    if keras.backend.standardize_dtype(value.dtype) == "bfloat16":
        value = cast(value, "float32")
    return np.array(keras.ops.convert_to_numpy(value))


def outputs_of(layer: Any, inputs: Array) -> Array:
    """Run a layer."""
    return numpy(single(layer(tensor(inputs))))


def single(outputs: Any) -> Any:
    """The outputs, which must be one tensor."""
    if isinstance(outputs, list | tuple | dict):
        raise AssertionError(
            f"the layer returns a {type(outputs).__name__}, and only layers with one output can be "
            "checked; check a layer that calls it and returns one of its outputs"
        )
    return outputs


def gradients_of(
    layer: Any, inputs: Array, *, training: bool | None = None
) -> tuple[Array, Callable[[Array], dict[str, Array | None]]]:
    """Run a layer and prepare its gradients.

    Args:
        layer: A built layer.
        inputs: Its inputs, in the dtype that it is to get.
        training: Whether it computes as in training; by default as it likes best.

    Returns:
        The outputs, and a function from factors to the gradients of sum(factors * outputs) with
        respect to `INPUTS` and each trainable weight, by its name; `None`: there is none.
    """
    outputs, pull = pullback(layer, tensor(inputs), training=training)
    outputs = single(outputs)
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    names = [INPUTS, *weight_names(layer, layer.trainable_variables)]

    def gradients(factors: Array) -> dict[str, Array | None]:
        found = pull(cast(tensor(factors), dtype))
        pairs = zip(names, found, strict=True)
        return {name: None if it is None else numpy(it) for name, it in pairs}

    return numpy(outputs), gradients


def weight_names(layer: Any, weights: Any) -> list[str]:
    """A name for each of some weights of a layer, all different."""
    names = [weight.name for weight in weights]
    paths = [weight.path for weight in weights]
    return [
        f"'{name}'" if names.count(name) == 1 else f"'{path}'"
        for name, path in zip(names, paths, strict=True)
    ]


def factors_like(outputs: Array, seed: int = 3) -> Array:
    """Upstream gradients for some outputs."""
    return np.random.default_rng(seed).standard_normal(outputs.shape).astype(np.float32)


@contextmanager
def explained(what: str, hints: Mapping[str, str] | None = None) -> Iterator[None]:
    """Make a failed check of whatever is raised inside.

    Args:
        what: What went wrong, for instance "in a graph".
        hints: Words of an error's message to what helps then.
    """
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        message = one_line(error)
        more = [hint for words, hint in (hints or {}).items() if words in message]
        raise AssertionError("; ".join([f"{what}: {message}", *more])) from error
