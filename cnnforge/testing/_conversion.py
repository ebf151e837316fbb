"""Check that a layer and its reference (the stock layer) can be converted, and measure both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import keras

from cnnforge.conversion import forge, lower
from cnnforge.conversion.workloads import Workload, timed_passes
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry
from cnnforge.testing._subject import Subject, outputs_of
from cnnforge.testing._values import check_weights, compare
from cnnforge.utils.timing import interleave, ratio

_ROUNDS = 12
_SECONDS = 3.0
_SPEED_BATCH = 32


def forge_and_lower(subject: Subject) -> str:
    """Require that `forge` replaces the reference by the layer, and that `lower` restores it."""
    layer, kind = subject.built(), subject.spec.load()
    registry: Registry[LayerSpec] = Registry(LayerSpec)
    registry.add(subject.spec.plugin or "plugin", [replace(subject.spec, plugin="")])
    stock = _stock_layers(subject, layer)
    model = keras.Sequential([keras.Input(subject.case.input_shape[1:]), *stock])
    check_weights(layer, model)
    model.set_weights(layer.get_weights())
    inputs = subject.inputs()
    forged = forge(model, "numba", layers=registry)
    made, wanted = [type(it) for it in forged.layers], subject.spec.load_places() or (kind,)
    if made != list(wanted):
        raise AssertionError(
            f"forge() made {_names(made)} of {_names(type(it) for it in stock)}, "
            f"expected {_names(wanted)}"
        )
    _same_weights(model, forged, "forge()")
    got, expected = outputs_of(forged, inputs), outputs_of(model, inputs)
    # The tolerance allows for the rounding errors of one float32 result, but here both results have
    # such errors. So double it with 4 times as many terms: it grows with their square root.
    compare("the output of the forged model", got, expected, 4 * subject.terms, against="model's")
    if subject.spec.fuses:
        # In a graph the second layer computes both, and the first one still has its own outputs.
        got = forged.predict_on_batch(inputs)
        compare("the output in a graph", got, expected, 4 * subject.terms, against="model's")
        maps = [keras.Model(it.inputs, it.layers[0].output) for it in (forged, model)]
        got, expected_map = (it.predict_on_batch(inputs) for it in maps)
        what = "the output of the first layer"
        compare(what, got, expected_map, 4 * subject.terms, against="model's")
    lowered = lower(forged, layers=registry)
    _same_weights(model, lowered, "lower()")
    for ours, theirs in zip(lowered.layers, model.layers, strict=True):
        if type(ours) is not type(theirs) or ours.get_config() != theirs.get_config():
            differing = [
                key
                for key, value in ours.get_config().items()
                if theirs.get_config().get(key) != value
            ]
            raise AssertionError(
                f"lower(forge(model)) has a {type(ours).__name__} with another configuration than "
                f"the {type(theirs).__name__} of the model: {', '.join(differing) or 'its class'}"
            )
    if outputs_of(lowered, inputs).tobytes() != expected.tobytes():
        raise AssertionError("lower(forge(model)) does not compute the same bits as the model")
    for ours, theirs in zip(made, stock, strict=True):
        if theirs.weights and ours.__name__ != type(theirs).__name__:
            return (
                "a .weights.h5 file of the stock model does not fit the forged one, because Keras "
                f"names weights after classes: name the class {type(theirs).__name__}"
            )
    return ""


def _stock_layers(subject: Subject, layer: Any) -> list[Any]:
    if not subject.spec.fuses:
        return [subject.spec.load_reference().from_config(layer.get_config())]
    return list(layer.split())


def _names(kinds: Iterable[type]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _same_weights(model: Any, other: Any, what: str) -> None:
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    if any(ours.tobytes() != theirs.tobytes() for ours, theirs in pairs):
        raise AssertionError(
            f"{what} changed the weights: those of the layer and of its reference "
            "must be the same, in the same order"
        )


def speed(subject: Subject) -> str:
    """Measure a layer, and its reference if it has one. The times do not affect the result."""
    shape = subject.case.speed_shape or (_SPEED_BATCH, *subject.case.input_shape[1:])
    layer, reference = subject.make(), subject.spec.load_reference()
    config = layer.get_config()
    spec, kind = subject.spec, subject.spec.load()
    workload = Workload(spec, kind, reference or kind, config, shape)
    try:
        ours = timed_passes(workload, kind)
    except NotImplementedError:
        return "not measured: the layer has no compute_output_shape()"
    timed: dict[str, Callable[[], object]] = {"forward": ours.forward, "full": ours.full}
    if reference is not None and not workload.reference_is_unsafe:
        try:
            stock = timed_passes(workload, reference)
        except NotImplementedError:
            return f"not measured: the reference {reference.__name__} has no compute_output_shape()"
        timed |= {"reference forward": stock.forward, "reference full": stock.full}
    timings, times = interleave(timed, rounds=_ROUNDS, limit=_SECONDS)
    found = []
    for name in ("forward", "full"):
        text = f"{name} {1e6 * timings[name].median:,.0f} us"
        if f"reference {name}" in times:
            factor = ratio(times[f"reference {name}"], times[name])[0]
            text += f" ({factor:.2f} times as fast as the reference)"
        found.append(text)
    return ", ".join(found)


CHECKS: dict[str, Callable[[Subject], str]] = {"forge_and_lower": forge_and_lower}
