"""Check the gradients of a layer.

They are compared with finite differences of the oracle (a NumPy function that defines the layer),
with gradients of the reference (the stock layer), or with finite differences of the layer itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnforge.errors import one_line
from cnnforge.testing._subject import (
    INPUTS,
    Array,
    Subject,
    factors_like,
    gradients_of,
    numpy,
    outputs_of,
    weight_names,
)
from cnnforge.testing._values import (
    compare,
    not_compared,
    oracle_of,
    reference_inputs,
    stock_of,
    weight_arrays,
)
from cnnforge.testing.diagnosis import diagnose

_DIRECTIONS = 3
# If a wrong gradient has at most this many elements, each of them is computed by finite differences
# to find the cause.
_MAX_DIAGNOSED = 1500
_EPS = float(np.finfo(np.float32).eps)


def gradients_oracle(subject: Subject) -> str:
    """Compare the gradients with finite differences of the oracle in float64, at several sizes."""
    return not_compared([each for each in subject.variants if not _with_oracle(each)])


def _with_oracle(subject: Subject) -> bool:
    """Compare at one size; return whether the oracle computes it."""
    layer, inputs = subject.built(), subject.inputs()
    outputs, gradients = gradients_of(layer, inputs)
    compute, weights = oracle_of(subject, layer), weight_arrays(layer)
    sources = [inputs.astype(np.float64), *weights]
    try:
        expected = compute(*sources)
    except Exception:
        if subject.resized:
            return False  # The oracle need not compute other sizes than those of the case.
        raise
    if outputs.shape != expected.shape:
        raise AssertionError(
            f"the outputs have the shape {outputs.shape}, those of the oracle {expected.shape}"
        )
    factors = _factors(outputs, expected)

    def total(*arrays: Array) -> float:
        return float((factors * compute(*arrays)).sum())

    size = float(np.abs(factors * expected).sum())
    found = gradients(factors)
    for name, place in _places(layer).items():
        value = sources[place]
        terms = subject.grad_terms(value, outputs)

        def along(direction: Array, place: int = place) -> float:
            step = 1e-6
            ends = [
                [
                    source + sign * step * direction if number == place else source
                    for number, source in enumerate(sources)
                ]
                for sign in (1, -1)
            ]
            return (total(*ends[0]) - total(*ends[1])) / (2 * step)

        # Finite differences in float64 with a step of 1e-6 have about ten correct digits. So errors
        # up to 1e-9 times the size of the sum are allowed (`floor`).
        _along_directions(
            f"{subject.where}the gradient of {name}",
            found[name],
            value,
            along,
            bound=4 * terms**0.5 * _EPS,
            floor=1e-9 * size,
            against="oracle's finite differences",
        )
    return True


def gradients_numeric(subject: Subject) -> str:
    """Compare the gradients with the layer's own finite differences in float32."""
    layer, inputs = subject.built(), subject.inputs()
    outputs, gradients = gradients_of(layer, inputs)
    factors = factors_like(outputs)
    found = gradients(factors)
    size = float(np.abs(factors * outputs).sum())
    step = 1e-2
    for name, place in _places(layer).items():
        weight = None if place == 0 else layer.weights[place - 1]
        value = inputs if weight is None else numpy(weight)

        def along(direction: Array, weight: Any = weight, value: Array = value) -> float:
            ends = []
            for sign in (1, -1):
                moved = (value + sign * step * direction).astype(np.float32)
                if weight is None:
                    ends.append(outputs_of(layer, moved))
                else:
                    weight.assign(moved)
                    ends.append(outputs_of(layer, inputs))
                    weight.assign(value)
            return float((factors * (ends[0].astype(np.float64) - ends[1])).sum()) / (2 * step)

        _along_directions(
            f"the gradient of {name}",
            found[name],
            value,
            along,
            bound=0.05,
            floor=10 * _EPS * size / step,
            against="layer's own differences in float32",
        )
    return "to 5 % only: the case has no oracle and the layer no reference"


def _along_directions(
    what: str,
    got: Array | None,
    value: Array,
    along: Callable[[Array], float],
    *,
    bound: float,
    floor: float,
    against: str,
) -> None:
    """Compare a gradient with finite differences along random directions.

    `along` maps a direction to the finite difference in that direction. The allowed error is
    `bound` times the size of the gradient, plus `floor`.
    """
    generator = np.random.default_rng(5)
    directions = [generator.standard_normal(value.shape) for _ in range(_DIRECTIONS)]
    expected = [along(direction) for direction in directions]
    if got is None:
        compare(what, None, np.array(expected) * (np.abs(expected) > floor), 1, against=against)
        return
    if got.shape != value.shape:
        raise AssertionError(f"{what} {diagnose(got, np.zeros(value.shape))}")
    wide = got.astype(np.float64)
    if not np.isfinite(wide).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(wide))[0])
        count = int((~np.isfinite(wide)).sum())
        raise AssertionError(
            f"{what}: {count} of {got.size} values are not finite, the first at {where}"
        )
    found = [float((wide * direction).sum()) for direction in directions]
    size = max(float(np.sqrt((wide**2).sum())), *(abs(slope) for slope in expected))
    for one, other in zip(found, expected, strict=True):
        if abs(one - other) > bound * size + floor:
            break
    else:
        return
    phrase = ""
    if value.size <= _MAX_DIAGNOSED:
        phrase = diagnose(wide, _every_element(value, along))
    raise AssertionError(
        f"{what} {phrase or f'differs from the {against}'} (along a random direction it is "
        f"{one:.6g}, by the {against} {other:.6g}; allowed {bound * size + floor:.2g})"
    )


def _every_element(value: Array, along: Callable[[Array], float]) -> Array:
    found = np.zeros(value.shape)
    for place in np.ndindex(value.shape):
        direction = np.zeros(value.shape)
        direction[place] = 1
        found[place] = along(direction)
    return found


def _places(layer: Any) -> dict[str, int]:
    """Map the name of each tensor with a gradient to its index in `[inputs, *weights]`."""
    places = {INPUTS: 0}
    all_weights = [id(weight) for weight in layer.weights]
    names = weight_names(layer, layer.trainable_variables)
    for name, weight in zip(names, layer.trainable_variables, strict=True):
        places[name] = 1 + all_weights.index(id(weight))
    return places


def _factors(got: Array, expected: Array) -> Array:
    """Draw random upstream gradients, and set those of some elements to zero.

    If only one of the outputs `got` and `expected` is zero at an element, a rounding error has
    decided whether an activation such as ReLU passes the value on. Then the gradients of the two
    functions differ, so the upstream gradient of this element is zero.
    """
    factors = factors_like(got)
    factors[(got == 0) != (expected == 0)] = 0
    return factors


def gradients_reference(subject: Subject) -> str:
    """Compare the gradients with those of the reference in float64, at several sizes."""
    notes = [_with_reference(each) for each in subject.variants]
    return notes[0]


def _with_reference(subject: Subject) -> str:
    layer = subject.built()
    try:
        stock = stock_of(subject, layer)
    except AssertionError:
        if subject.resized:
            return ""  # The reference may refuse a size that the layer accepts.
        raise
    inputs = reference_inputs(subject, layer)
    outputs, gradients = gradients_of(layer, inputs)
    try:
        expected, wanted = gradients_of(stock, inputs.astype(np.float64))
        factors = _factors(outputs, expected)
        theirs = wanted(factors)
    except Exception as error:
        if subject.resized:
            return ""
        if subject.case.oracle is None:
            raise
        # TensorFlow, for example, has no gradient of grouped convolutions on a CPU. Then the
        # comparison with the oracle is enough.
        return f"not compared, as the reference has no gradient: {one_line(error)[:80]}"
    ours = gradients(factors)
    for (name, got), value in zip(ours.items(), theirs.values(), strict=True):
        if value is not None:
            terms = subject.grad_terms(value, outputs)
            what = f"{subject.where}the gradient of {name}"
            compare(what, got, value, terms, against="reference")
    return ""


CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check for check in (gradients_oracle, gradients_reference, gradients_numeric)
}
