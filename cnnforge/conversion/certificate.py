"""The certificate: every plugin layer of a model against its reference, at the model's own shapes.

A test suite checks shapes that somebody thought of. This checks those of the model that is about to
be trained: its layers' strides, padding, dtype and weights, outputs and every gradient.

The reference is the stock layer with the same configuration and weights, computed in float64. So
the tolerance of `cnnforge.testing` holds as it stands, where two float32 results, each off by as
much, would need twice that; and TensorFlow computes float64 without oneDNN, whose float32 gradient
of strided 1x1 convolutions corrupts memory (TensorFlow 2.21).

Layers compute as in training. What they draw, they draw from the same state; and as TensorFlow
draws other numbers in float64, a layer that draws has a reference of its own precision. What they
remember of a batch, such as moving averages, is compared as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras.ops import cast

from cnnforge.backends import pullback
from cnnforge.errors import PluginError, one_line
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.tolerance import error_bounds

_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
# For a dimension that the model leaves open.
_STAND_IN = 32
_PROBES = 4
# Statistics of fewer values than these may lie so close to the values themselves that a gradient
# is what rounding leaves of it.
_LEAST = 32

Gradients = Callable[[np.ndarray], dict[str, np.ndarray | None]]


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """How far one result is from its reference.

    Attributes:
        tensor: `outputs`, `grad_inputs`, `grad_` and the name of a weight, or the name of a weight
            that training moves without a gradient.
        terms: K, the number of products in one element.
        max_error: The largest absolute difference; NaN where a value is not finite.
        allowed: `4 * sqrt(K) * eps * rms(reference)`.
        ok: Whether that holds, and `rms(error) <= sqrt(K) * eps * rms(reference)`.
    """

    tensor: str
    terms: int
    max_error: float
    allowed: float
    ok: bool


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """What became of one layer at one shape.

    Attributes:
        layer: The layer's name.
        kind: The class of the stock layer that it stands for.
        provider: The qualified name of the plugin layer.
        input_shape: The shape of the inputs that it was checked with.
        dtype: The precision that it computes in.
        results: One for each tensor.
        error: Why it could not be computed; "" where it could.
    """

    layer: str
    kind: str
    provider: str
    input_shape: tuple[int, ...]
    dtype: str
    results: tuple[TensorCheck, ...]
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether all results are right."""
        return not self.error and bool(self.results) and all(it.ok for it in self.results)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; an error that is not finite is `None`."""
        values = asdict(self)
        values["input_shape"] = list(self.input_shape)
        values["passed"] = self.passed
        values["results"] = [
            {k: None if v != v or v in (math.inf, -math.inf) else v for k, v in it.items()}
            for it in values["results"]
        ]
        return values


def certify(
    model: keras.Model, *, layers: Registry[LayerSpec], batch: int = 2, seed: int = 0
) -> list[LayerCheck]:
    """Check every plugin layer of a model that stands for a stock layer.

    The model is not touched: copies of its layers are computed, with its weights. A layer that is
    used at several shapes is checked at each. Nothing is raised for a layer that is wrong.

    Args:
        model: A built model, as `cnnforge.conversion.forge` returns it.
        layers: The plugin layers.
        batch: How many images to compute; more of them where a layer takes statistics of few.
        seed: Of the inputs. A layer without weights gets small integers, so that there are ties.

    Returns:
        One for each layer and shape, in the order of the model.
    """
    known: dict[type, tuple[LayerSpec, type]] = {}
    for spec in layers.values():
        try:
            reference = spec.load_reference()
            if reference is not None:
                known[spec.load()] = (spec, reference)
        except PluginError:
            continue  # No layer of the model is of a class that cannot be imported.
    checks = []
    for layer in model._flatten_layers():
        if type(layer) in known:
            spec, reference = known[type(layer)]
            for shape in _input_shapes(layer, batch):
                checks.append(_check(layer, spec, reference, shape, seed))
    return checks


def _input_shapes(layer: keras.layers.Layer, batch: int) -> Iterator[tuple[int, ...]]:
    shapes = [
        tuple(node.input_tensors[0].shape)
        for node in layer._inbound_nodes
        if len(node.input_tensors) == 1
    ]
    if not shapes:
        # A layer inside another one is part of no graph; it knows what it was built for.
        built = (layer.get_build_config() or {}).get("input_shape")
        shapes = [] if built is None else [tuple(built)]
    known = [tuple(size or _STAND_IN for size in shape[1:]) for shape in shapes]
    for shape in dict.fromkeys(known):
        positions = max(1, math.prod(shape[:-1]))
        yield (max(batch, -(-_LEAST // positions)) if _remembers(layer) else batch, *shape)


def _remembers(layer: keras.layers.Layer) -> bool:
    """Whether training moves weights that have no gradient."""
    return layer.trainable and not all(it.trainable for it in layer.weights)


def _check(
    layer: keras.layers.Layer, spec: LayerSpec, reference: type, shape: tuple[int, ...], seed: int
) -> LayerCheck:
    dtype = keras.backend.standardize_dtype(layer.compute_dtype)
    results: tuple[TensorCheck, ...] = ()
    error = ""
    try:
        results = tuple(_compare(layer, reference, shape, dtype, seed))
    except Exception as raised:
        error = one_line(raised)
    kind = reference.__name__
    return LayerCheck(layer.name, kind, spec.qualified_name, shape, dtype, results, error)


def _compare(
    layer: keras.layers.Layer, reference: type, shape: tuple[int, ...], dtype: str, seed: int
) -> Iterator[TensorCheck]:
    config = layer.get_config()
    # Behind a pool the gradient goes to one cell, and where two are equal up to rounding both
    # answers are right. So a fused layer computes with numbers whose sums are exact.
    exact = hasattr(layer, "unfuse")
    ours = _copy(type(layer), config, layer, shape, exact)
    # Of the variables, those that are no weights hold the state of what is drawn.
    draws = len(layer.variables) > len(layer.weights)
    wide = config if draws else {**config, "dtype": "float64"}
    stock = _copy(reference, wide, layer, shape, exact)
    random = np.random.default_rng(seed)
    drawn = layer.weights and not exact
    values: Any = random.standard_normal(shape) if drawn else random.integers(-3, 4, shape)
    # Both compute from the same numbers: those that the layer's own precision can hold.
    inputs = cast(cast(values, "float32"), dtype)
    got, got_gradients = _run(ours, inputs)
    expected, gradients = _run(stock, cast(inputs, stock.compute_dtype))
    eps = _EPS.get(dtype, _EPS["float32"])
    terms = _terms(gradients, expected)
    yield _tensor("outputs", got, expected, terms, eps)
    if got.shape != expected.shape:
        return
    factors = np.array(_array(cast(random.standard_normal(expected.shape), dtype)))
    # An output that is zero in one and not in the other is an activation that the last bit
    # decides; its gradient is zero or it is not, and both are right. The outputs were compared.
    factors[(got == 0) != (expected == 0)] = 0
    found, wanted = got_gradients(factors), gradients(factors)
    positions = max(1, math.prod(expected.shape[:-1]))
    counts = {"grad_inputs": math.ceil(terms * math.prod(expected.shape) / math.prod(shape))}
    for name, value in wanted.items():
        if value is not None:
            yield _tensor(name, found.get(name), value, counts.get(name, positions), eps)
    if _remembers(layer):
        for old, new, wanted_new in zip(layer.weights, ours.weights, stock.weights, strict=True):
            if not old.trainable:
                yield _tensor(old.name, _array(new), _array(wanted_new), terms, eps)


def _copy(
    kind: type,
    config: dict[str, Any],
    layer: keras.layers.Layer,
    shape: tuple[int, ...],
    exact: bool,
) -> keras.layers.Layer:
    copy = kind.from_config(config)
    if not copy.built:
        copy.build(shape)
    # Weights in sixteenths of a power of two: times small integers, thousands of them add up
    # without rounding in float32.
    largest = max((float(np.abs(_array(it)).max(initial=0)) for it in layer.weights), default=0.0)
    step = 2.0 ** (math.floor(math.log2(largest)) - 4) if largest > 0 else 1.0
    for old, new in zip(layer.variables, copy.variables, strict=True):
        new.assign(np.round(_array(old) / step) * step if exact else old)
    return copy


def _run(layer: keras.layers.Layer, inputs: Any) -> tuple[np.ndarray, Gradients]:
    """The outputs, and a function from factors to the gradients of sum(factors * outputs)."""
    names = ["grad_inputs", *(f"grad_{it.name}" for it in layer.trainable_variables)]
    outputs, pull = pullback(layer, inputs, training=True)
    dtype = keras.backend.standardize_dtype(outputs.dtype)

    def gradients(factors: np.ndarray) -> dict[str, np.ndarray | None]:
        found = zip(names, pull(cast(factors, dtype)), strict=True)
        return {name: None if it is None else _array(it) for name, it in found}

    return _array(outputs), gradients


def _terms(gradients: Gradients, outputs: np.ndarray) -> int:
    """K of the outputs: how many inputs one of them depends on, at most, of some large ones."""
    most = 1
    # Large ones, because an activation may have cut off the others.
    for index in np.argsort(outputs, axis=None)[::-1][:_PROBES]:
        probe = np.zeros(outputs.size)
        probe[index] = 1
        gradient = gradients(probe.reshape(outputs.shape))["grad_inputs"]
        most = max(most, 0 if gradient is None else int(np.count_nonzero(gradient)))
    return most


def _tensor(
    name: str, got: np.ndarray | None, reference: np.ndarray, terms: int, eps: float
) -> TensorCheck:
    # What only meets padding is exactly zero, and no part of the size of the others.
    root, bound = (
        limit * eps / _EPS["float32"] for limit in error_bounds(reference[reference != 0], terms)
    )
    if got is None or got.shape != reference.shape:
        return TensorCheck(name, terms, math.nan, bound, False)
    error = np.abs(got - reference)
    if not error.size:
        return TensorCheck(name, terms, 0.0, bound, True)
    largest, mean = float(error.max()), math.sqrt(float(np.mean(error**2)))
    # The reference rounded to the layer's precision is as near as a result can come.
    near = 0.5 * eps * float(np.abs(reference).max())
    ok = largest <= max(bound, near) and mean <= max(root, near)
    return TensorCheck(name, terms, largest if math.isfinite(largest) else math.nan, bound, ok)


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(cast(tensor, "float64")))
