"""Make the layer of one test case, give it random weights and inputs, and run it."""

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
    """A layer spec that contains the classes themselves instead of their import paths."""

    layer: Any = None
    stock: Any = None

    def load(self) -> Any:
        """Return the layer class."""
        return self.layer if self.layer is not None else LayerSpec.load(self)

    def load_reference(self) -> Any:
        """Return the class of the reference."""
        return self.stock if self.stock is not None else LayerSpec.load_reference(self)


@dataclass(frozen=True)
class Subject:
    """A layer and one of its test cases.

    Attributes:
        spec: Spec of the layer.
        case: The test case.
    """

    spec: LayerSpec
    case: LayerCase

    def make(self, **changes: Any) -> Any:
        """Return a new layer that is not built.

        Args:
            **changes: Constructor arguments that replace those of the case, or are added to them.
        """
        with _seeded():
            return self.spec.load()(**{**self.case.arguments, **changes})

    def built(self, **changes: Any) -> Any:
        """Return a new built layer with nonzero weights, which are the same in every call."""
        layer = self.make(**changes)
        with _seeded():
            if not layer.built:
                layer.build(self.case.input_shape)
        generator = np.random.default_rng(1)
        for weight in layer.weights:
            value = numpy(weight)
            noise = generator.standard_normal(value.shape)
            if keras.backend.is_float_dtype(weight.dtype):
                # The noise is small, so that a positive weight stays positive. Some layers need
                # that, for example if the weight is a width.
                scale = float(np.sqrt(np.mean(value.astype(np.float64) ** 2))) or 1.0
                weight.assign((value + 0.1 * scale * noise).astype(np.float32))
        return layer

    def inputs(self, batch: int | None = None, seed: int = 2) -> Array:
        """Return random float32 inputs.

        Args:
            batch: Number of samples; by default that of the case.
            seed: Random seed.
        """
        shape = self.case.input_shape if batch is None else (batch, *self.case.input_shape[1:])
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    @property
    def terms(self) -> int:
        """K in the tolerance of `assert_close`: the number of products in one output element."""
        return self.case.terms or max(1, math.prod(self.case.input_shape[1:]))

    def grad_terms(self, gradient: Array, outputs: Array) -> int:
        """Return K for a gradient: the mean number of products in one of its elements.

        The backward pass has as many products as the forward pass, `self.terms * outputs.size`.
        """
        return max(1, math.ceil(self.terms * outputs.size / max(1, gradient.size)))


@contextmanager
def _seeded() -> Iterator[None]:
    # An initializer without a seed draws its seed from Python's random generator. So seed this
    # generator, and restore its state afterwards.
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def tensor(array: Array) -> Any:
    """Make a tensor from a copy of an array, since TensorFlow may share the array's memory."""
    return keras.ops.convert_to_tensor(np.array(array))


def numpy(value: Any) -> Array:
    """Copy a tensor or variable to NumPy. NumPy has no bfloat16, so bfloat16 becomes float32."""
    if keras.backend.standardize_dtype(value.dtype) == "bfloat16":
        value = cast(value, "float32")
    return np.array(keras.ops.convert_to_numpy(value))


def outputs_of(layer: Any, inputs: Array) -> Array:
    """Run a layer and return its outputs."""
    return numpy(single(layer(tensor(inputs))))


def single(outputs: Any) -> Any:
    """Return the outputs of a layer, and require that they are one tensor."""
    if isinstance(outputs, list | tuple | dict):
        raise AssertionError(
            f"the layer returns a {type(outputs).__name__}, and only layers with one output can be "
            "checked; check a layer that calls it and returns one of its outputs"
        )
    return outputs


def gradients_of(
    layer: Any, inputs: Array, *, training: bool | None = None
) -> tuple[Array, Callable[[Array], dict[str, Array | None]]]:
    """Run a layer and prepare to compute its gradients.

    Args:
        layer: A built layer.
        inputs: Inputs of the layer; their dtype is not changed.
        training: Passed to the layer; `None` means the layer's default.

    Returns:
        Two values: the outputs, and a function. The function takes an array of factors in the shape
        of the outputs, and returns a dictionary with the gradients of sum(factors * outputs). The
        key of the gradient of the inputs is `INPUTS`; that of a weight's gradient is the name of
        the weight. A missing gradient is `None`.
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
    """Return a name for each of the given weights of a layer; no two names are equal."""
    names = [weight.name for weight in weights]
    paths = [weight.path for weight in weights]
    return [
        f"'{name}'" if names.count(name) == 1 else f"'{path}'"
        for name, path in zip(names, paths, strict=True)
    ]


def factors_like(outputs: Array, seed: int = 3) -> Array:
    """Draw random upstream gradients in the shape of the outputs."""
    return np.random.default_rng(seed).standard_normal(outputs.shape).astype(np.float32)


@contextmanager
def explained(what: str, hints: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn any error in the block into an `AssertionError` with a description.

    Args:
        what: Description of the failure, for example "the layer fails in a graph".
        hints: Maps a substring of an error message to advice. The advice is added if the message
            contains the substring.
    """
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        message = one_line(error)
        more = [hint for words, hint in (hints or {}).items() if words in message]
        raise AssertionError("; ".join([f"{what}: {message}", *more])) from error
