"""Check which memory a layer writes and changes, and that it keeps no state between calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cnnforge.backends import pullback
from cnnforge.ops.audit import NOT_COMPILED, Trace, audit, compare_threads
from cnnforge.testing._subject import (
    INPUTS,
    Array,
    Subject,
    explained,
    factors_like,
    gradients_of,
    numpy,
    outputs_of,
    single,
    tensor,
    weight_names,
)
from cnnforge.testing.cases import NotRunError


def index_in_range(subject: Subject) -> str:
    """Require that no function of an op uses an index outside of an array.

    The functions are compiled with a check of each index. The batch and the sizes vary.
    """
    for each in subject.variants:
        for label, trace in _traces(each).items():
            if trace.outside:
                raise AssertionError(f"{each.where}{label}: {trace.outside}")
    unchecked = _unchecked(subject)
    if unchecked:
        return unchecked
    count = len(subject.traces)
    return f"{count} function{'s' if count > 1 else ''} of ops" if count else "no function of an op"


def races(subject: Subject) -> str:
    """Require that two iterations of a parallel loop never use the element that one of them writes.

    The iterations run one after the other, so this does not depend on the threads.
    """
    for each in subject.variants:
        for label, trace in _traces(each).items():
            if trace.race:
                raise AssertionError(f"{each.where}{label}: {trace.race}")
    return _unchecked(subject)


def _unchecked(subject: Subject) -> str:
    """Return which function ran without a check of its indices and iterations, and why, or "".

    Raises:
        NotRunError: Numba compiles nothing.
    """
    for label, trace in subject.traces.items():
        if trace.unchecked == NOT_COMPILED:
            raise NotRunError(f"not run: {label} is not compiled (NUMBA_DISABLE_JIT=1)")
        if trace.unchecked:
            return f"{label} is not checked index by index: {trace.unchecked[:200]}"
    return ""


def _traces(subject: Subject) -> dict[str, Trace]:
    with explained(f"{subject.where}the layer fails"):
        return subject.traces


def every_element_written(subject: Subject) -> str:
    """Require that ops write every element of their outputs, and use no other memory.

    An op must also not read an element of its outputs before it has written the element.
    """
    count = 0
    for each in subject.variants:
        layer, inputs = each.built(), each.inputs()
        with audit() as found:
            outputs, gradients = gradients_of(layer, inputs)
            gradients(factors_like(outputs))
        if found.faults:
            raise AssertionError(each.where + "; ".join(found.faults))
        count = len(found.functions)
    if not count:
        return "no ArrayOp was called"
    return f"{count} function{'s' if count > 1 else ''} of ops"


def inputs_unchanged(subject: Subject) -> str:
    """Require that a layer changes neither inputs nor weights nor upstream gradients."""
    layer = subject.built()
    inputs = tensor(subject.inputs())
    watched: dict[str, Any] = {INPUTS: inputs}
    names = weight_names(layer, layer.weights)
    watched |= {name: weight for name, weight in zip(names, layer.weights, strict=True)}
    before = {name: numpy(tensor) for name, tensor in watched.items()}

    def unchanged(when: str) -> None:
        for name, value in before.items():
            now = numpy(watched[name])
            changed = (now != value) & ((now == now) | (value == value))  # NaN stays NaN
            if changed.any():
                first = tuple(int(i) for i in np.argwhere(changed)[0])
                what = f"the weight {name} was" if name in names else f"{name} were"
                raise AssertionError(
                    f"{what} modified {when}: {int(changed.sum())} of {value.size} elements, "
                    f"first at {first}"
                )

    outputs, pull = pullback(layer, inputs)
    unchanged("by the forward pass")
    outputs = single(outputs)
    factors = keras.ops.cast(tensor(factors_like(numpy(outputs))), outputs.dtype)
    watched |= {"the outputs": outputs, "the upstream gradient": factors}
    before |= {name: numpy(watched[name]) for name in ("the outputs", "the upstream gradient")}
    pull(factors)
    unchanged("by the backward pass")
    return ""


def determinism(subject: Subject) -> str:
    """Require bitwise equal results of equal calls, with work for all threads.

    Each function of an op runs many times, and once with a single thread.
    """
    layer, inputs = subject.built(), subject.inputs()
    outputs_of(layer, inputs)
    # If the layer keeps state, the call above has set the state, which then affects the next two
    # calls alike. So this check does not fail because of state; the check `no_state` finds it.
    first, second = _everything(layer, inputs), _everything(layer, inputs)
    _same(first, second, "two calls with the same inputs give different bits: not deterministic")
    busy = subject.busy
    with compare_threads() as found:
        outputs, gradients = gradients_of(busy.built(), busy.inputs())
        gradients(factors_like(outputs))
    if found.faults:
        raise AssertionError(f"{busy.where}{found.faults[0]}")
    return ""


def no_state(subject: Subject) -> str:
    """Require that a call depends only on its inputs and the current weights."""
    layer, inputs = subject.built(), subject.inputs()
    # Between two equal calls, the layer is called with another batch size and larger numbers. If
    # the layer keeps state, the results of the two equal calls differ.
    others = subject.inputs(batch=len(inputs) + 1, seed=6) * np.float32(1.5)
    first = _everything(layer, inputs)
    with explained("a call with another batch size fails"):
        _everything(layer, others)
    second = _everything(layer, inputs)
    _same(
        first,
        second,
        "the same inputs give something else after a call with other inputs: state is kept "
        "between calls",
    )
    changed = [weight * weight.dtype.type(1.25) for weight in layer.get_weights()]
    again = subject.built()
    for one in (layer, again):
        one.set_weights(changed)
    _same(
        _everything(again, inputs),
        _everything(layer, inputs),
        "after its weights have changed the layer computes something else than a new one with the "
        "same weights: something made of the old weights is kept",
    )
    return ""


def _everything(layer: Any, inputs: Array) -> dict[str, Array | None]:
    outputs, gradients = gradients_of(layer, inputs)
    found = gradients(factors_like(outputs))
    named = {f"the gradient of {name}": gradient for name, gradient in found.items()}
    return {"the outputs": outputs, **named}


def _same(first: dict[str, Array | None], second: dict[str, Array | None], message: str) -> None:
    for name, one in first.items():
        other = second[name]
        if one is None or other is None:
            continue
        differ = one.shape != other.shape or one.tobytes() != other.tobytes()
        if differ:
            count = int((one != other).sum()) if one.shape == other.shape else one.size
            raise AssertionError(f"{message}; {count} of {one.size} elements of {name} differ")


CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check
    for check in (
        index_in_range,
        races,
        every_element_written,
        inputs_unchanged,
        determinism,
        no_state,
    )
}
