"""Compare the outputs of a layer with those of its oracle and its reference.

The oracle is a NumPy function that defines the layer. The reference is the stock layer. If the
outputs differ, the error message names a probable cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnforge.testing._subject import (
    INPUTS,
    Array,
    Subject,
    numpy,
    outputs_of,
    weight_names,
)
from cnnforge.testing.diagnosis import diagnose, fits, variants
from cnnforge.utils.tolerance import assert_close


def compare(
    what: str,
    got: Array | None,
    expected: Array,
    terms: int,
    *,
    against: str,
    causes: Callable[[Array], str] | None = None,
) -> None:
    """Require that a result equals its reference up to rounding.

    Args:
        what: Name of the result in the message.
        got: The result; `None` if it is missing.
        expected: The reference.
        terms: K in the tolerance of `assert_close`.
        against: Name of the reference in the message.
        causes: Function that maps a wrong result to an explanation, or to "".

    Raises:
        AssertionError: The result differs from the reference. The message describes the difference.
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


def oracle_of(subject: Subject, layer: Any) -> Callable[..., Array]:
    """Return the oracle as a function of float64 inputs and weights."""

    def oracle(inputs: Array, *weights: Array) -> Array:
        made = subject.case.oracle(layer, inputs, *weights)  # pyright: ignore[reportOptionalCall]
        return np.asarray(made, np.float64)

    return oracle


def weight_arrays(layer: Any) -> list[Array]:
    return [numpy(weight).astype(np.float64) for weight in layer.weights]


def _causes(
    compute: Callable[..., Array], inputs: Array, weights: Sequence[Array], names: Sequence[str]
) -> Callable[[Array], str]:
    """Return a function that tries to explain wrong outputs.

    The returned function calls `compute` with inputs or weights that are changed by usual mistakes.
    If a result equals the wrong outputs, the function returns a sentence that names the mistake,
    otherwise "".
    """
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
                    continue  # The oracle may refuse inputs that the layer never gets.
                if fits(got, found):
                    verb = {"is": "were", "has": "had"}[verb]
                    return f"it is as if {name} {verb} {rest}"
        return ""

    return causes


def values_oracle(subject: Subject) -> str:
    """Compare the outputs with the oracle."""
    layer, inputs = subject.built(), subject.inputs()
    got = outputs_of(layer, inputs)
    compute, weights = oracle_of(subject, layer), weight_arrays(layer)
    expected = compute(inputs.astype(np.float64), *weights)
    if got.shape != expected.shape:
        raise AssertionError(
            f"the outputs have the shape {got.shape}, those of the oracle {expected.shape}"
        )
    names = weight_names(layer, layer.weights)
    causes = _causes(compute, inputs.astype(np.float64), weights, names)
    compare("the output", got, expected, subject.terms, against="oracle", causes=causes)
    return ""


def stock_of(subject: Subject, layer: Any, dtype: str = "float64") -> Any:
    """Return the reference, in float64 by default, with the weights of a layer."""
    config = {**layer.get_config(), "dtype": dtype}
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
        AssertionError: The number of weights or a shape differs.
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


def reference_inputs(subject: Subject, layer: Any) -> Array:
    """Return random inputs for the comparison of a layer with its reference."""
    if layer.weights:
        return subject.inputs()
    # A layer without weights may compare its input values with each other, as a max pooling does.
    # Many small integers are equal, so the check covers equal values too.
    shape = subject.case.input_shape
    return np.random.default_rng(4).integers(-3, 4, shape).astype(np.float32)


def values_reference(subject: Subject) -> str:
    """Compare the outputs with the reference in float64."""
    layer = subject.built()
    stock, inputs = stock_of(subject, layer), reference_inputs(subject, layer)

    def compute(inputs: Array, *weights: Array) -> Array:
        for weight, value in zip(stock.weights, weights, strict=True):
            weight.assign(value)
        return outputs_of(stock, inputs)

    names = weight_names(layer, layer.weights)
    wide = inputs.astype(np.float64)
    weights = weight_arrays(layer)
    causes = _causes(compute, wide, weights, names)
    got, expected = outputs_of(layer, inputs), compute(wide, *weights)
    compare("the output", got, expected, subject.terms, against="reference", causes=causes)
    return ""


CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check for check in (values_oracle, values_reference)
}
