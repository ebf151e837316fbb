"""Make the layer of one test case, give it random weights and inputs, and run it."""

from __future__ import annotations

import contextlib
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import numba
import numpy as np
from keras.ops import cast

from cnnforge.backends import pullback
from cnnforge.errors import message_of, one_line, place_of
from cnnforge.ops.audit import Trace, only_shapes, recording, tracing
from cnnforge.ops.audit.intercept import Call
from cnnforge.plugin import LayerSpec
from cnnforge.testing.cases import LayerCase

Array = np.ndarray[Any, Any]
INPUTS = "the inputs"
# Inputs with more values are not checked at other sizes too: that would take long.
_MAX_VARIED = 200_000


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
        resized: Whether the checks have chosen the shape of the inputs, and not the author.
        printed: The text that the layer has printed in its first run.
    """

    spec: LayerSpec
    case: LayerCase
    resized: bool = False
    printed: list[str] = field(default_factory=list, compare=False)

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

    def with_shape(self, shape: tuple[int, ...]) -> Subject:
        """Return the same layer and arguments with inputs of another shape."""
        return Subject(self.spec, replace(self.case, input_shape=shape), resized=True)

    @property
    def where(self) -> str:
        """Beginning of a message: the shape of the inputs, if the author has not chosen it."""
        return f"for inputs of the shape {self.case.input_shape}: " if self.resized else ""

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The axes whose size a layer should not depend on: neither the batch nor the channels."""
        rank = len(self.case.input_shape)
        first = getattr(self.make(), "data_format", "") == "channels_first"
        return tuple(range(2, rank) if first else range(1, rank - 1))

    @cached_property
    def variants(self) -> tuple[Subject, ...]:
        """This subject, and the same with other batches and sizes that the layer accepts."""
        batch, shape = self.case.input_shape[0], self.case.input_shape
        others = [(1, *shape[1:])]
        if self.sizes and math.prod(shape) <= _MAX_VARIED:
            others += [self._sized(batch, lambda _, size=size: size) for size in (1, 2)]
            others.append(self._sized(batch + 1, lambda size: size + 1))
        else:
            others.append((batch + 1, *shape[1:]))
        found = [self.with_shape(it) for it in dict.fromkeys(others) if it != shape]
        # A layer need not accept each size, for instance if a window does not fit.
        return self, *(it for it in found if it.case.input_shape[1:] == shape[1:] or it.accepted)

    @cached_property
    def busy(self) -> Subject:
        """The same with inputs that have work for all threads."""
        batch = max(self.case.input_shape[0], 2 * numba.get_num_threads())
        large = self.with_shape(self._sized(batch, lambda size: max(size, min(3 * size, 32))))
        return large if large.accepted else self.with_shape((batch, *self.case.input_shape[1:]))

    def _sized(self, batch: int, size: Callable[[int], int]) -> tuple[int, ...]:
        shape = enumerate(self.case.input_shape)
        return tuple(
            batch if axis == 0 else size(old) if axis in self.sizes else old for axis, old in shape
        )

    @cached_property
    def accepted(self) -> bool:
        """Whether the layer does not refuse inputs of this shape by a `ValueError`.

        Its outputs must have elements, too.
        """
        try:
            with only_shapes():
                layer = self.built()
                outputs = layer(tensor(self.inputs()))
                with contextlib.suppress(NotImplementedError):
                    layer.compute_output_shape(self.case.input_shape)
                return all(math.prod(it.shape) > 0 for it in keras.tree.flatten(outputs))
        except ValueError:
            return False
        except Exception as error:
            # TensorFlow refuses by this error what its own operations cannot compute.
            return type(error).__name__ != "InvalidArgumentError"

    @cached_property
    def traces(self) -> dict[str, Trace]:
        """The trace of each function of an op, with the inputs of the case."""
        with tracing() as found:
            self._once()
        return found

    @cached_property
    def calls(self) -> list[tuple[Call, list[Array]]]:
        """Each call of a function of an op with the inputs of the case, and what it wrote."""
        with recording() as found:
            self._once()
        return found

    def _once(self) -> None:
        outputs, gradients = gradients_of(self.built(), self.inputs())
        gradients(factors_like(outputs))

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
    except SystemExit as error:
        where = place_of(error)
        raise AssertionError(f"{what}: it ends the program by sys.exit(){where}") from error
    except Exception as error:
        message = _readable(error)
        more = [hint for words, hint in (hints or {}).items() if words in message]
        raise AssertionError("; ".join([f"{what}: {message}", *more])) from error


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# What Keras and `numpy_function.py` put before a message, which names the op.
_ROUTE = re.compile(r"^_FunctionError: (Exception encountered when calling [\w.]+\(\)\. )?")
_PLACE = re.compile(r"\.py:\d+\)$")


def _readable(error: Exception) -> str:
    """Describe an error in one line, without what Keras and the route of an op add to it."""
    for inner in _chain(error):
        if isinstance(inner, MemoryError):
            text = message_of(inner)
            known = "memory than is left" in text
            return text if known else f"it asks for more memory than is left: {text}"
    text = _ROUTE.sub("", _COLOURS.sub("", one_line(error)))
    begin, cut, rest = text.partition(" Arguments received by ")
    if _PLACE.search(begin):
        return begin
    return begin + (" (" + rest.rpartition(" (")[2] if cut and rest.endswith(")") else "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
