"""Make a layer for one case, give it weights and inputs, and run it."""

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
    """A spec that holds its classes instead of their names."""

    layer: Any = None
    stock: Any = None

    def load(self) -> Any:
        """Return the class."""
        return self.layer if self.layer is not None else LayerSpec.load(self)

    def load_reference(self) -> Any:
        """Return the reference."""
        return self.stock if self.stock is not None else LayerSpec.load_reference(self)


@dataclass(frozen=True)
class Subject:
    """A layer in one case.

    Attributes:
        spec: Spec of the layer.
        case: The case.
    """

    spec: LayerSpec
    case: LayerCase

    def make(self, **changes: Any) -> Any:
        """Return a new layer, not built.

        Args:
            **changes: Arguments that replace those of the case, or are added to them.
        """
        with _seeded():
            return self.spec.load()(**{**self.case.arguments, **changes})

    def built(self, **changes: Any) -> Any:
        """Return a new layer, built, with nonzero weights that are the same every time."""
        layer = self.make(**changes)
        with _seeded():
            if not layer.built:
                layer.build(self.case.input_shape)
        generator = np.random.default_rng(1)
        for weight in layer.weights:
            value = numpy(weight)
            noise = generator.standard_normal(value.shape)
            if keras.backend.is_float_dtype(weight.dtype):
                # Near the initial values: a width, for instance, may have to be positive.
                scale = float(np.sqrt(np.mean(value.astype(np.float64) ** 2))) or 1.0
                weight.assign((value + 0.1 * scale * noise).astype(np.float32))
        return layer

    def inputs(self, batch: int | None = None, seed: int = 2) -> Array:
        """Return random inputs, float32.

        Args:
            batch: Number of samples; by default that of the case.
            seed: Random seed.
        """
        shape = self.case.input_shape if batch is None else (batch, *self.case.input_shape[1:])
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    @property
    def terms(self) -> int:
        """K of the tolerance, for one element of the outputs."""
        return self.case.terms or max(1, math.prod(self.case.input_shape[1:]))

    def grad_terms(self, gradient: Array, outputs: Array) -> int:
        """Return K for one element of a gradient: all products, shared by the elements."""
        return max(1, math.ceil(self.terms * outputs.size / max(1, gradient.size)))


@contextmanager
def _seeded() -> Iterator[None]:
    # An initializer without a seed draws one from Python's generator.
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def tensor(array: Array) -> Any:
    """Make a tensor from a copy of an array, which TensorFlow would otherwise share."""
    return keras.ops.convert_to_tensor(np.array(array))


def numpy(value: Any) -> Array:
    """Copy a tensor or variable to NumPy; bfloat16, which NumPy does not know, as float32."""
    if keras.backend.standardize_dtype(value.dtype) == "bfloat16":
        value = cast(value, "float32")
    return np.array(keras.ops.convert_to_numpy(value))


def outputs_of(layer: Any, inputs: Array) -> Array:
    """Run a layer and return its outputs."""
    return numpy(single(layer(tensor(inputs))))


def single(outputs: Any) -> Any:
    """Return the outputs, which must be one tensor."""
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
        inputs: Its inputs, in the dtype that the layer gets.
        training: Passed to the layer; `None` leaves it to the layer's default.

    Returns:
        The outputs, and a function from factors to the gradients of sum(factors * outputs) with
        respect to `INPUTS` and each trainable weight, by its name; a missing gradient is `None`.
    """
    outputs, pull = pullback(layer, tensor(inputs), training=training)
    outputs = single(outputs)
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    names = [INPUTS, *weight_names(layer, layer.trainable_variables)]

    def gradients(factors: Array) -> dict[str, Array | None]:
        found = pull(cast(tensor(factors), dtype))
        pairs = zip(names, found, strict=True)
        return {name: None if gradient is None else numpy(gradient) for name, gradient in pairs}

    return numpy(outputs), gradients


def weight_names(layer: Any, weights: Any) -> list[str]:
    """Give each of some weights of a layer a different name."""
    names = [weight.name for weight in weights]
    paths = [weight.path for weight in weights]
    return [
        f"'{name}'" if names.count(name) == 1 else f"'{path}'"
        for name, path in zip(names, paths, strict=True)
    ]


def factors_like(outputs: Array, seed: int = 3) -> Array:
    """Draw upstream gradients for some outputs."""
    return np.random.default_rng(seed).standard_normal(outputs.shape).astype(np.float32)


@contextmanager
def explained(what: str, hints: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn any error inside into a failed check.

    Args:
        what: Description of the failure, for instance "the layer fails in a graph".
        hints: Advice for errors whose message contains certain words.
    """
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        message = one_line(error)
        more = [hint for words, hint in (hints or {}).items() if words in message]
        raise AssertionError("; ".join([f"{what}: {message}", *more])) from error
