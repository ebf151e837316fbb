"""Checks of values and gradients: against the oracle, against the reference, by differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from cnnforge.testing.diagnosis import diagnose, fits, variants
from cnnforge.testing.tolerance import assert_close

_DIRECTIONS = 3
# Above this many elements a wrong gradient is not computed element by element to say in what way.
_DIAGNOSED = 1500
_EPS = float(np.finfo(np.float32).eps)

Gradients = dict[str, Array | None]


def compare(
    what: str,
    got: Array | None,
    expected: Array,
    terms: int,
    *,
    against: str,
    causes: Callable[[Array], str] | None = None,
) -> None:
    """Require that a result is what it should be, up to rounding.

    Args:
        what: What the message calls it.
        got: The result; `None`: there is none.
        expected: What it should be.
        terms: K of the tolerance.
        against: What it is compared with, for the message.
        causes: From a wrong result to what would explain it, or "".

    Raises:
        AssertionError: It is not; the message says how it differs.
    """
    if got is None:
        if expected.any():
            raise AssertionError(
                f"{what} is missing (None), and the {against} has one: no backward function "
                "writes it, or the layer computes with something else than this tensor"
            )
        return
    try:
        assert_close(got, expected, terms)
    except AssertionError as error:
        found = diagnose(got, expected) if got.shape == np.shape(expected) else ""
        cause = causes(got) if causes is not None and got.shape == np.shape(expected) else ""
        parts = [f"{what} {found}" if found else f"{what} differs from the {against}"]
        parts += [cause] if cause else []
        raise AssertionError(f"{'; '.join(parts)} ({error})") from None


def _oracle(subject: Subject, layer: Any) -> Callable[..., Array]:
    """The oracle as a function of float64 inputs and weights."""

    def oracle(inputs: Array, *weights: Array) -> Array:
        made = subject.case.oracle(layer, inputs, *weights)  # pyright: ignore[reportOptionalCall]
        return np.asarray(made, np.float64)

    return oracle


def _arrays(layer: Any) -> list[Array]:
    return [numpy(weight).astype(np.float64) for weight in layer.weights]


def _causes(
    compute: Callable[..., Array], inputs: Array, weights: Sequence[Array], names: Sequence[str]
) -> Callable[[Array], str]:
    """What mistake with the inputs or a weight would give the outputs that were found."""
    sources = [inputs, *weights]

    def causes(got: Array) -> str:
        for place, (name, source) in enumerate(zip([INPUTS, *names], sources, strict=True)):
            guesses = [*variants(source), (np.zeros_like(source), ("is", "not used"))]
            for guess, (verb, rest) in guesses:
                changed = [*sources]
                changed[place] = guess
                try:
                    found = compute(*changed)
                except Exception:
                    continue  # A definition need not hold for what a layer never gets.
                if fits(got, found):
                    verb = {"is": "were", "has": "had"}[verb]
                    return f"it is as if {name} {verb} {rest}"
        return ""

    return causes


def values_oracle(subject: Subject) -> str:
    """The outputs are those of the oracle."""
    layer, inputs = subject.built(), subject.inputs()
    got = outputs_of(layer, inputs)
    compute, weights = _oracle(subject, layer), _arrays(layer)
    expected = compute(inputs.astype(np.float64), *weights)
    if got.shape != expected.shape:
        raise AssertionError(
            f"the outputs have the shape {got.shape}, those of the oracle {expected.shape}"
        )
    names = weight_names(layer, layer.weights)
    causes = _causes(compute, inputs.astype(np.float64), weights, names)
    compare("the output", got, expected, subject.terms, against="oracle", causes=causes)
    return ""


def gradients_oracle(subject: Subject) -> str:
    """The gradients are the derivatives of the oracle, by finite differences in float64."""
    layer, inputs = subject.built(), subject.inputs()
    outputs, gradients = gradients_of(layer, inputs)
    compute, weights = _oracle(subject, layer), _arrays(layer)
    sources = [inputs.astype(np.float64), *weights]
    expected = compute(*sources)
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
                [it + sign * step * direction if i == place else it for i, it in enumerate(sources)]
                for sign in (1, -1)
            ]
            return (total(*ends[0]) - total(*ends[1])) / (2 * step)

        # A float64 difference over a step of 1e-6 is good to about ten digits.
        _along_directions(
            f"the gradient of {name}",
            found[name],
            value,
            along,
            bound=4 * terms**0.5 * _EPS,
            floor=1e-9 * size,
            against="oracle's finite differences",
        )
    return ""


def gradients_numeric(subject: Subject) -> str:
    """The gradients are the layer's own finite differences, as far as float32 tells."""
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
    """Compare a gradient with derivatives along random directions."""
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
    size = max(float(np.sqrt((wide**2).sum())), *(abs(it) for it in expected))
    for one, other in zip(found, expected, strict=True):
        if abs(one - other) > bound * size + floor:
            break
    else:
        return
    phrase = ""
    if value.size <= _DIAGNOSED:
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
    """The name of everything that has a gradient, and its place among inputs and weights."""
    places = {INPUTS: 0}
    all_weights = [id(weight) for weight in layer.weights]
    names = weight_names(layer, layer.trainable_variables)
    for name, weight in zip(names, layer.trainable_variables, strict=True):
        places[name] = 1 + all_weights.index(id(weight))
    return places


def _factors(got: Array, expected: Array) -> Array:
    """Upstream gradients; zero where the last bit decides whether an activation lets it through."""
    factors = factors_like(got)
    factors[(got == 0) != (expected == 0)] = 0
    return factors


def _stock(subject: Subject, layer: Any) -> Any:
    """The reference in float64, with the weights of a layer."""
    config = {**layer.get_config(), "dtype": "float64"}
    stock = subject.spec.load_reference().from_config(config)
    if not stock.built:
        stock.build(subject.case.input_shape)
    check_weights(layer, stock)
    for theirs, ours in zip(stock.weights, layer.weights, strict=True):
        theirs.assign(ours)
    return stock


def check_weights(layer: Any, stock: Any) -> None:
    """Require that a layer and its reference have weights of the same shapes.

    Raises:
        AssertionError: They have not.
    """
    if len(stock.weights) != len(layer.weights):
        raise AssertionError(
            f"the layer has {len(layer.weights)} weights, its reference {len(stock.weights)}: "
            "a layer and its reference have the same weights in the same order"
        )
    for theirs, ours in zip(stock.weights, layer.weights, strict=True):
        if tuple(theirs.shape) != tuple(ours.shape):
            raise AssertionError(
                f"the weight {ours.name!r} has the shape {tuple(ours.shape)}, that of the "
                f"reference, {theirs.name!r}, {tuple(theirs.shape)}"
            )


def _reference_inputs(subject: Subject, layer: Any) -> Array:
    if layer.weights:
        return subject.inputs()
    # A layer without weights may be about order: small integers have ties.
    shape = subject.case.input_shape
    return np.random.default_rng(4).integers(-3, 4, shape).astype(np.float32)


def values_reference(subject: Subject) -> str:
    """The outputs are those of the reference in float64."""
    layer = subject.built()
    stock, inputs = _stock(subject, layer), _reference_inputs(subject, layer)

    def compute(inputs: Array, *weights: Array) -> Array:
        for weight, value in zip(stock.weights, weights, strict=True):
            weight.assign(value)
        return outputs_of(stock, inputs)

    names = weight_names(layer, layer.weights)
    wide = inputs.astype(np.float64)
    weights = _arrays(layer)
    causes = _causes(compute, wide, weights, names)
    got, expected = outputs_of(layer, inputs), compute(wide, *weights)
    compare("the output", got, expected, subject.terms, against="reference", causes=causes)
    return ""


def gradients_reference(subject: Subject) -> str:
    """The gradients are those of the reference in float64."""
    layer = subject.built()
    stock, inputs = _stock(subject, layer), _reference_inputs(subject, layer)
    outputs, gradients = gradients_of(layer, inputs)
    try:
        expected, wanted = gradients_of(stock, inputs.astype(np.float64))
        factors = _factors(outputs, expected)
        theirs = wanted(factors)
    except Exception as error:
        if subject.case.oracle is None:
            raise
        # TensorFlow has no gradient of grouped convolutions on a CPU, for instance.
        return f"left to the oracle, as the reference has none: {one_line(error)[:80]}"
    ours = gradients(factors)
    for (name, got), value in zip(ours.items(), theirs.values(), strict=True):
        if value is not None:
            terms = subject.grad_terms(value, outputs)
            compare(f"the gradient of {name}", got, value, terms, against="reference")
    return ""


CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check
    for check in (
        values_oracle,
        values_reference,
        gradients_oracle,
        gradients_reference,
        gradients_numeric,
    )
}
