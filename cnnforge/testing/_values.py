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
    explained,
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

    def compute(inputs: Array, *weights: Array) -> Array:
        made = subject.case.oracle(layer, inputs, *weights)  # pyright: ignore[reportOptionalCall]
        return np.asarray(made, np.float64)

    return compute


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


def oracle(subject: Subject) -> str:
    """Require that the oracle computes in float64."""
    layer = subject.built()
    inputs = np.random.default_rng(2).standard_normal(subject.case.input_shape)
    weights = [value * (1 + 1e-12) for value in weight_arrays(layer)]
    with explained("the oracle fails"):
        made = subject.case.oracle(layer, inputs, *weights)  # pyright: ignore[reportOptionalCall]
    found = np.asarray(made)
    narrow = found.dtype != np.float64
    if not narrow and found.size > 1 and np.isfinite(found).all():
        rounded = found.astype(np.float32)
        narrow = bool((rounded == found).all() and (rounded != np.round(rounded)).any())
    if narrow:
        raise AssertionError(
            f"the oracle computes in {found.dtype if found.dtype != np.float64 else 'float32'}, "
            "expected float64: its inputs and weights are float64, so leave out astype() and dtype="
        )
    return ""


def values_oracle(subject: Subject) -> str:
    """Compare the outputs with the oracle, at the sizes of the case and at others."""
    refused = []
    for each in subject.variants:
        layer, inputs = each.built(), each.inputs()
        got = outputs_of(layer, inputs)
        compute, weights = oracle_of(each, layer), weight_arrays(layer)
        wide = inputs.astype(np.float64)
        try:
            expected = compute(wide, *weights)
        except Exception:
            if not each.resized:
                raise
            # The oracle need not compute other sizes than those of the case.
            refused.append(each)
            continue
        if got.shape != expected.shape:
            raise AssertionError(
                f"{each.where}the outputs have the shape {got.shape}, those of the oracle "
                f"{expected.shape}"
            )
        names = weight_names(layer, layer.weights)
        causes = _of_samples(each, layer, _causes(compute, wide, weights, names))
        what = f"{each.where}the output"
        compare(what, got, expected, each.terms, against="oracle", causes=causes)
    return not_compared(refused)


def not_compared(refused: Sequence[Subject]) -> str:
    """Return a note with the shapes of inputs that the oracle refuses, or ""."""
    shapes = ", ".join(str(each.case.input_shape) for each in refused)
    return f"not at {shapes}: the oracle refuses inputs of this size" if refused else ""


def _of_samples(
    subject: Subject, layer: Any, causes: Callable[[Array], str]
) -> Callable[[Array], str]:
    """Add two causes to those of `_causes`: samples that affect each other, and a wrapped index."""

    def found(got: Array) -> str:
        cause = causes(got)
        if len(got) > 1 and not cause:
            others = subject.inputs(seed=6)
            others[0] = subject.inputs()[0]
            if not fits(outputs_of(layer, others)[:1], got[:1]):
                return "sample 0 changes with the other samples: samples affect each other"
        wrapped = [trace.wrapped for trace in subject.traces.values() if trace.wrapped]
        return "; ".join([it for it in (cause, *wrapped[:1]) if it])

    return found


def stock_of(subject: Subject, layer: Any, dtype: str = "float64") -> Any:
    """Return the reference, in float64 by default, with the weights of a layer."""
    kind = subject.spec.load_reference()
    config = {**layer.get_config(), "dtype": dtype}
    with explained(f"the reference {kind.__name__} cannot be made from the layer's configuration"):
        stock = kind.from_config(config)
    with explained(f"the reference {kind.__name__} cannot be built"):
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


def reference(subject: Subject) -> str:
    """Require that the reference can be made, and computes in float64."""
    layer = subject.built()
    stock = stock_of(subject, layer)
    with explained(f"the reference {type(stock).__name__} fails"):
        outputs_of(stock, reference_inputs(subject, layer).astype(np.float64))
    return ""


def values_reference(subject: Subject) -> str:
    """Compare the outputs with the reference in float64, at the sizes of the case and at others."""
    for each in subject.variants:
        layer = each.built()
        inputs = reference_inputs(each, layer)
        wide, weights = inputs.astype(np.float64), weight_arrays(layer)
        got = outputs_of(layer, inputs)
        try:
            stock = stock_of(each, layer)
            expected = outputs_of(stock, wide)
        except Exception:
            if each.resized:
                continue  # The reference may refuse a size that the layer accepts.
            raise

        def compute(inputs: Array, *weights: Array, stock: Any = stock) -> Array:
            for weight, value in zip(stock.weights, weights, strict=True):
                weight.assign(value)
            return outputs_of(stock, inputs)

        names = weight_names(layer, layer.weights)
        causes = _of_samples(each, layer, _causes(compute, wide, weights, names))
        what = f"{each.where}the output"
        compare(what, got, expected, each.terms, against="reference", causes=causes)
    return ""


CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check for check in (oracle, reference, values_oracle, values_reference)
}
