"""Certify a model: compare each of its plugin layers with the stock layer that it replaces.

A plugin layer that replaces none is compared with its oracle (`oracle_certificate.py`).

A test suite checks shapes that its author chose. The certificate checks the layers of a model that
is about to be trained, with their own shapes, strides, padding, dtype and weights. It checks the
outputs and every gradient.

The reference is the stock layer with the same configuration and weights, computed in float64. So
the tolerance of `cnnforge.testing` applies; two float32 results would need twice the tolerance.
There is a second reason for float64: TensorFlow computes it without oneDNN. In TensorFlow 2.21,
oneDNN's float32 gradient of strided 1x1 convolutions corrupts memory.

Layers compute as in training. If a layer draws random numbers, the layer and its reference start
from the same random state. The reference of such a layer computes in the layer's own precision,
because TensorFlow draws other numbers in float64. Weights that training changes without a gradient,
such as moving averages, are compared too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras.ops import cast

from cnnforge.backends import pullback
from cnnforge.conversion.copying import live_config
from cnnforge.conversion.matching import kernel_layers
from cnnforge.conversion.oracle_certificate import (
    ORACLE,
    Oracle,
    compare_with_oracle,
    layers_with_oracle,
)
from cnnforge.conversion.workloads import Workload
from cnnforge.errors import one_line
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.keras_graph import input_shapes
from cnnforge.utils.tolerance import error_bounds

_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
_PROBES = 4
# Min K of an output. A formula for one element, `x * exp(-x * x)`, is rounded more than once.
_MIN_TERMS = 4
# Min number of values from which a layer computes a mean and a variance in a check. With fewer
# values, the gradient of the layer may consist of rounding errors only.
_MIN_STATISTIC = 32
# Activations whose gradient does not change with the sums before it, except where it jumps.
_PIECEWISE_LINEAR = (None, keras.activations.linear, keras.activations.relu)
# Max number of images in the check of one layer. A layer computes every image in the same way, so
# more images would check nothing more, but the float64 reference would take longer.
_MAX_IMAGES = 8

Gradients = Callable[[np.ndarray], dict[str, np.ndarray | None]]


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """The difference between one result and its reference.

    Attributes:
        tensor: Name of the result: `outputs`, `grad_inputs`, `grad_NAME` for the gradient of the
            weight `NAME`, or the name of a weight that training changes without a gradient.
        terms: K, the number of products that are summed in one element of the result.
        max_error: The absolute difference of the element that is closest to its bound, or furthest
            above it; NaN if a value is not finite.
        allowed: The bound of this element, `4 * sqrt(K) * eps * rms(reference)`. If the rms of its
            channel is larger than that of all elements, it is the rms of the channel.
        ok: Whether all elements are within their bounds, and `rms(error)` is at most
            `sqrt(K) * eps * rms(reference)`.
    """

    tensor: str
    terms: int
    max_error: float
    allowed: float
    ok: bool


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """The result of checking one layer at one shape.

    Attributes:
        layer: The layer's name.
        kind: Class name of the stock layer that the layer replaces; `"its oracle"` if it is
            compared with the oracle of its test cases.
        provider: The qualified name of the plugin layer.
        input_shape: The shape of the inputs, including the batch.
        dtype: The precision that the layer computes in.
        results: One check for each result: the outputs, each gradient, and each weight that
            training changes without a gradient.
        error: The reason why the layer could not be computed; "" if it was computed.
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
        """Whether the layer was computed and all results are within their bounds."""
        return not self.error and bool(self.results) and all(result.ok for result in self.results)

    @property
    def fault(self) -> str:
        """The end of a sentence that says why the layer has failed; "" if it has passed."""
        if self.passed:
            return ""
        wrong = next((result.tensor for result in self.results if not result.ok), "")
        return self.error or f"its {wrong} differ from those of {self.kind}"

    @property
    def worst(self) -> float:
        """The max error of all results, as a fraction of the bound of the result."""
        return max((result.max_error / result.allowed for result in self.results), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for JSON. A difference that is not finite becomes `None`."""
        values = asdict(self)
        values["input_shape"] = list(self.input_shape)
        values["passed"] = self.passed
        values["results"] = [
            {k: None if v != v or v in (math.inf, -math.inf) else v for k, v in result.items()}
            for result in values["results"]
        ]
        return values


def certify(
    model: keras.Model, *, layers: Registry[LayerSpec], batch: int = 2, seed: int = 0
) -> list[LayerCheck]:
    """Check every plugin layer of a model that replaces a stock layer or has an oracle.

    The checks compute with copies of the layers, so the model does not change. A layer that is
    used at several shapes is checked at each of them. A wrong result raises no error: see `passed`
    of the checks.

    Args:
        model: A built model, for instance one that `cnnforge.conversion.forge` has returned.
        layers: The plugin layers.
        batch: Number of images to compute. A layer that computes a mean and variance of the batch
            may get more.
        seed: Random seed of the inputs. The inputs of a layer without weights are small integers,
            so that several values in a window are equal.

    Returns:
        One check for each layer and shape, in the order of the model; those with an oracle come
        last. A layer whose oracle cannot compute a shape is left out.
    """
    checks = [
        _check(layer, spec, config, (_images(layer, shape, batch), *shape), seed)
        for spec, layer, config in kernel_layers(model, layers)
        for shape in input_shapes(layer)
    ]
    for spec, layer, oracle in layers_with_oracle(model, layers):
        for shape in input_shapes(layer):
            found = _with_oracle(layer, spec, oracle, (batch, *shape), seed)
            if found.results or found.error:
                checks.append(found)
    return checks


def certify_layer(workload: Workload) -> LayerCheck:
    """Check one layer with fresh weights.

    Args:
        workload: The layer and its shape; at most eight of its images are computed.

    Returns:
        The check. Do not measure the speed of a layer that has not passed it.
    """
    spec, shape = workload.spec, workload.shape
    try:
        layer = workload.kind.from_config(dict(workload.config))
        # Build the layer as part of a model, since it may behave differently alone.
        keras.Sequential([keras.Input(shape[1:]), layer])
        images = _images(layer, shape[1:], min(shape[0], _MAX_IMAGES))
        return _check(layer, spec, workload.config, (images, *shape[1:]), seed=0)
    except Exception as error:
        return failed_check(spec, shape, one_line(error))


def failed_check(spec: LayerSpec, shape: tuple[int, ...], error: str) -> LayerCheck:
    """Return the check of a layer that could not be computed.

    Args:
        spec: Spec of the plugin layer.
        shape: The shape of the inputs; `()` if it is not known.
        error: The reason.
    """
    kind = (spec.reference or "").rpartition(":")[2]
    return LayerCheck(spec.name, kind, spec.qualified_name, shape, "", (), error)


def _with_oracle(
    layer: keras.layers.Layer,
    spec: LayerSpec,
    oracle: Oracle,
    shape: tuple[int, ...],
    seed: int,
) -> LayerCheck:
    dtype = keras.backend.standardize_dtype(layer.compute_dtype)
    results: tuple[TensorCheck, ...] = ()
    error = ""
    try:
        copy = _copy(type(layer), live_config(layer), layer, shape, exact=False)
        results = tuple(
            TensorCheck(name, terms, largest, allowed, largest <= allowed)
            for name, terms, largest, allowed in compare_with_oracle(copy, oracle, shape, seed)
        )
    except Exception as raised:
        error = one_line(raised)
    return LayerCheck(layer.name, ORACLE, spec.qualified_name, shape, dtype, results, error)


def _images(layer: keras.layers.Layer, shape: tuple[int, ...], batch: int) -> int:
    if not _has_statistics(layer):
        return batch
    return max(batch, -(-_MIN_STATISTIC // max(1, math.prod(shape[:-1]))))


def _has_statistics(layer: keras.layers.Layer) -> bool:
    """Return whether a layer has weights that training changes without a gradient."""
    return layer.trainable and not all(weight.trainable for weight in layer.weights)


def _check(
    layer: keras.layers.Layer,
    spec: LayerSpec,
    config: Mapping[str, Any],
    shape: tuple[int, ...],
    seed: int,
) -> LayerCheck:
    """Check the plugin layer with a configuration and the weights of a layer."""
    dtype = keras.backend.standardize_dtype(layer.compute_dtype)
    results: tuple[TensorCheck, ...] = ()
    error = ""
    try:
        results = tuple(_compare(layer, spec, config, shape, seed))
    except Exception as raised:
        error = one_line(raised)
    kind = spec.stock_name
    return LayerCheck(layer.name, kind, spec.qualified_name, shape, dtype, results, error)


def _compare(
    layer: keras.layers.Layer,
    spec: LayerSpec,
    config: Mapping[str, Any],
    shape: tuple[int, ...],
    seed: int,
) -> Iterator[TensorCheck]:
    # A max pooling passes its gradient to the max of each window. If the two largest values differ
    # only by rounding, the layer and its reference may pass it to different values. So a layer that
    # ends in a pooling gets inputs and weights whose sums are exact.
    exact = bool(spec.fuses) and issubclass(spec.load_fuses()[1], keras.layers.MaxPooling2D)
    ours = _copy(spec.load(), config, layer, shape, exact)
    # A layer draws random numbers if it has variables that are not weights. These variables hold
    # the state of its generator.
    draws = len(layer.variables) > len(layer.weights)
    wide = config if draws else {**config, "dtype": "float64"}
    stock = _copy(spec.load_reference(), wide, layer, shape, exact)
    random = np.random.default_rng(seed)
    drawn = layer.weights and not exact
    values: Any = random.standard_normal(shape) if drawn else random.integers(-3, 4, shape)
    # The inputs are rounded to the layer's precision first, so that the layer and its reference get
    # the same numbers.
    dtype = keras.backend.standardize_dtype(layer.compute_dtype)
    inputs = cast(cast(values, "float32"), dtype)
    got, got_gradients = _run(ours, inputs)
    expected, gradients = _run(stock, cast(inputs, stock.compute_dtype))
    eps = _EPS.get(dtype, _EPS["float32"])
    terms = _terms(gradients, expected)
    yield _tensor("outputs", got, expected, terms, eps)
    if got.shape != expected.shape:
        return
    factors = np.array(_array(cast(random.standard_normal(expected.shape), dtype)))
    # An activation function may have limited an output in only one of the two results, because of a
    # rounding error before it. Then the gradients differ although both are right. So a factor of 0
    # leaves these outputs out of the gradients. The outputs were compared above.
    for limit in (0, 6):
        factors[(got == limit) != (expected == limit)] = 0
    found, wanted = got_gradients(factors), gradients(factors)
    positions = max(1, math.prod(expected.shape[:-1]))
    counts = {"grad_inputs": math.ceil(terms * math.prod(expected.shape) / math.prod(shape))}
    # The gradient of a smooth activation, such as softmax, depends on the rounded sums before it.
    rounded = 0 if getattr(layer, "activation", None) in _PIECEWISE_LINEAR else terms
    for name, value in wanted.items():
        if value is not None:
            count = counts.get(name, positions) + rounded
            yield _tensor(name, found.get(name), value, count, eps)
    if _has_statistics(layer):
        for old, new, wanted_new in zip(layer.weights, ours.weights, stock.weights, strict=True):
            if not old.trainable:
                yield _tensor(old.name, _array(new), _array(wanted_new), terms, eps)


def _copy(
    kind: type,
    config: Mapping[str, Any],
    layer: keras.layers.Layer,
    shape: tuple[int, ...],
    exact: bool,
) -> keras.layers.Layer:
    # The copy gets other weights, so a user's own initializer is not needed. It may not be able to
    # compute in float64.
    own = [key for key, value in config.items() if key.endswith("_initializer") and callable(value)]
    copy = kind.from_config({**config, **dict.fromkeys(own, "zeros")})
    if not copy.built:
        copy.build(shape)
    # With `exact`, weights are rounded to multiples of `step`, a power of two. No weight is above
    # 32 steps. So a sum of thousands of products with small integers stays below 2**24 steps, and
    # float32 computes it exactly.
    sizes = [float(np.abs(_array(weight)).max(initial=0)) for weight in layer.weights]
    largest = max(sizes, default=0.0)
    step = 2.0 ** (math.floor(math.log2(largest)) - 4) if largest > 0 else 1.0
    for old, new in zip(layer.variables, copy.variables, strict=True):
        new.assign(np.round(_array(old) / step) * step if exact else old)
    return copy


def _run(layer: keras.layers.Layer, inputs: Any) -> tuple[np.ndarray, Gradients]:
    """Return the outputs of a layer, and a function that computes gradients.

    The argument of the function is an array of factors, of the shape of the outputs. The function
    returns the gradients of sum(factors * outputs), by name.
    """
    names = ["grad_inputs", *(f"grad_{weight.name}" for weight in layer.trainable_variables)]
    outputs, pull = pullback(layer, inputs, training=True)
    dtype = keras.backend.standardize_dtype(outputs.dtype)

    def gradients(factors: np.ndarray) -> dict[str, np.ndarray | None]:
        found = zip(names, pull(cast(factors, dtype)), strict=True)
        return {name: None if tensor is None else _array(tensor) for name, tensor in found}

    return _array(outputs), gradients


def _terms(gradients: Gradients, outputs: np.ndarray) -> int:
    """Return K of the outputs: the number of input elements that one output element depends on.

    It is the max over a few output elements, and `_MIN_TERMS` or more. For each element, count the
    input elements at which its gradient is not zero.
    """
    terms = _MIN_TERMS
    # Use the largest outputs: an activation may have set other outputs, and their gradients, to 0.
    for index in np.argsort(outputs, axis=None)[::-1][:_PROBES]:
        probe = np.zeros(outputs.size)
        probe[index] = 1
        gradient = gradients(probe.reshape(outputs.shape))["grad_inputs"]
        terms = max(terms, 0 if gradient is None else int(np.count_nonzero(gradient)))
    return terms


def _tensor(
    name: str, got: np.ndarray | None, reference: np.ndarray, terms: int, eps: float
) -> TensorCheck:
    # Elements that are computed only from padding are exactly zero. They would make the rms, and
    # with it the tolerance, smaller. So leave zeros out of the rms.
    root, bound = (
        limit * eps / _EPS["float32"] for limit in error_bounds(reference[reference != 0], terms)
    )
    if got is None or got.shape != reference.shape:
        return TensorCheck(name, terms, math.nan, bound, False)
    error = np.abs(got - reference)
    if not error.size:
        return TensorCheck(name, terms, 0.0, bound, True)
    mean = math.sqrt(float(np.mean(error**2)))
    # In a trained network, some channels are much larger than others, and so are their errors.
    bounds = np.maximum(bound, 4 * math.sqrt(terms) * eps * _channel_sizes(reference))
    ratios = error / np.where(bounds > 0, bounds, 1)
    worst = np.unravel_index(int(ratios.argmax()), error.shape)
    largest, bound = float(error[worst]), float(np.broadcast_to(bounds, error.shape)[worst])
    # Half a unit in the last place of the largest element: rounding to the layer's precision causes
    # this much error even if the computation is exact.
    near = 0.5 * eps * float(np.abs(reference).max())
    ok = bool((error <= np.maximum(bounds, near)).all()) and mean <= max(root, near)
    return TensorCheck(name, terms, largest if math.isfinite(largest) else math.nan, bound, ok)


def _channel_sizes(values: np.ndarray) -> np.ndarray:
    """Return the root mean square of the values in each channel (last axis) that are not zero."""
    axes = tuple(range(values.ndim - 1))
    counts = np.count_nonzero(values, axis=axes)
    return np.sqrt(np.sum(values**2, axis=axes) / np.maximum(counts, 1))


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(cast(tensor, "float64")))
