"""Certify the layers of a model that replace no stock layer: compare them with their oracles.

The oracle is the NumPy function of the test cases of a layer (`cnnforge.testing.LayerCase`). The
layers are those of the model, with its shapes and weights. Outputs are compared with the oracle,
and gradients with its finite differences along random directions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras.ops import cast

from cnnforge.backends import pullback
from cnnforge.errors import PluginError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.utils.keras_graph import all_layers
from cnnforge.utils.tolerance import error_bounds

ORACLE = "its oracle"
_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_STEP = 1e-6
# If the oracle takes longer, in seconds, its finite differences are not computed: training waits.
_SLOW = 1.0

Oracle = Callable[..., Any]
# A result: its name, the number of products in one element, the max error, and the allowed error.
Result = tuple[str, int, float, float]


def layers_with_oracle(
    model: keras.Model, layers: Registry[LayerSpec]
) -> Iterator[tuple[LayerSpec, keras.layers.Layer, Oracle]]:
    """Find the layers of a model that plugins declare without a reference, but with an oracle."""
    known = {}
    for spec in layers.values():
        if spec.reference is None and spec.fuses is None and spec.cases is not None:
            try:
                oracles = [case.oracle for case in spec.load_cases() if case.oracle is not None]
                if oracles:
                    known[spec.load()] = spec, oracles[0]
            except PluginError:
                continue
    for layer in all_layers(model):
        if type(layer) in known:
            spec, oracle = known[type(layer)]
            yield spec, layer, oracle


def compare_with_oracle(
    layer: keras.layers.Layer, oracle: Oracle, shape: tuple[int, ...], seed: int
) -> list[Result]:
    """Compare the outputs and the gradients of a layer with its oracle.

    Args:
        layer: A built layer; it is not changed.
        oracle: Function `oracle(layer, inputs, *weights)` in float64.
        shape: The shape of the inputs, including the batch.
        seed: Random seed.

    Returns:
        The results; empty if the oracle cannot compute inputs of this shape.
    """
    random = np.random.default_rng(seed)
    dtype = keras.backend.standardize_dtype(layer.compute_dtype)
    scale = _EPS.get(dtype, 2.0**-23) / 2.0**-23
    inputs = cast(random.standard_normal(shape).astype(np.float32), dtype)
    sources = [_array(inputs), *(_array(weight) for weight in layer.weights)]
    begin = time.perf_counter()
    try:
        expected = np.asarray(oracle(layer, *sources), np.float64)
    except Exception:
        # An oracle need not compute other sizes than those of its cases.
        return []
    slow = time.perf_counter() - begin > _SLOW
    outputs, pull = pullback(layer, inputs)
    got = _array(outputs)
    terms = max(1, math.prod(shape[1:]))
    if got.shape != expected.shape:
        return [("outputs", terms, math.nan, 0.0)]
    _, bound = error_bounds(expected[expected != 0], terms)
    near = 0.5 * 2.0**-23 * float(np.abs(expected).max(initial=0))
    found = [("outputs", terms, _max(got - expected), scale * max(bound, near))]
    if slow:
        return found
    factors = _array(cast(random.standard_normal(expected.shape).astype(np.float32), dtype))
    factors[(got == 0) != (expected == 0)] = 0
    weights = [id(weight) for weight in layer.weights]
    places = [0, *(1 + weights.index(id(it)) for it in layer.trainable_variables)]
    names = ["inputs", *(it.name for it in layer.trainable_variables)]
    directions = [random.standard_normal(sources[place].shape) for place in places]
    changes = []
    for place, direction in zip(places, directions, strict=True):
        before, after = (
            np.asarray(oracle(layer, *_moved(sources, place, step * direction)), np.float64)
            for step in (-_STEP, _STEP)
        )
        factors[_bends(before, expected, after)] = 0
        changes.append(after - before)
    size = float(np.abs(factors * expected).sum())
    gradients = pull(cast(factors, dtype))
    for name, place, direction, change, gradient in zip(
        names, places, directions, changes, gradients, strict=True
    ):
        wanted = float((factors * change).sum()) / (2 * _STEP)
        values = np.zeros(sources[place].shape) if gradient is None else _array(gradient)
        count = max(1, math.ceil(terms * expected.size / max(1, values.size)))
        length = max(float(np.sqrt((values**2).sum())), abs(wanted))
        allowed = 4 * math.sqrt(count) * scale * 2.0**-23 * length + 1e-9 * size
        found.append(
            (f"grad_{name}", count, abs(float((values * direction).sum()) - wanted), allowed)
        )
    return found


def _moved(sources: list[np.ndarray], place: int, step: np.ndarray) -> list[np.ndarray]:
    return [it + step if number == place else it for number, it in enumerate(sources)]


def _bends(before: np.ndarray, middle: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return where a function is not smooth between two points, as a ReLU is not at 0.

    A finite difference there is not the slope. Among many values, a few are that close to 0.
    """
    size = math.sqrt(float(np.mean((after - before) ** 2))) if middle.size else 0.0
    rounding = 1e-12 * float(np.abs(middle).max(initial=0))
    return np.abs(before + after - 2 * middle) > 1e-4 * size + rounding


def _max(error: np.ndarray) -> float:
    largest = float(np.abs(error).max(initial=0))
    return largest if math.isfinite(largest) else math.nan


def _array(tensor: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(cast(tensor, "float64")))
