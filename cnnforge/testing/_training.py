"""The check of a layer that acts differently in training: beside its reference, as in training."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cnnforge.testing._subject import (
    Subject,
    explained,
    factors_like,
    gradients_of,
    numpy,
    weight_names,
)
from cnnforge.testing._values import compare, stock_of

# Statistics of fewer values may lie so close to the values that a gradient is what rounding leaves.
_LEAST = 32


def training_reference(subject: Subject) -> str:
    """As in training, outputs, gradients and what the layer remembers are the reference's."""
    layer = subject.built()
    # Of the variables, those that are no weights hold the state of what is drawn, and numbers that
    # are drawn in another precision are others.
    draws = len(layer.variables) > len(layer.weights)
    stock = stock_of(subject, layer, layer.compute_dtype if draws else "float64")
    for theirs, ours in zip(stock.variables, layer.variables, strict=True):
        theirs.assign(ours)
    batch, *sizes = subject.case.input_shape
    positions = max(1, math.prod(sizes[:-1]))
    inputs = subject.inputs(batch=max(batch, math.ceil(_LEAST / positions)))
    terms = max(subject.terms, len(inputs) * positions)
    with explained("with training=True the layer fails"):
        outputs, gradients = gradients_of(layer, inputs, training=True)
    wide = inputs.astype(stock.compute_dtype)
    expected, wanted = gradients_of(stock, wide, training=True)
    compare("with training=True the output", outputs, expected, terms, against="reference")
    factors = factors_like(outputs)
    found = gradients(factors)
    for (name, got), value in zip(found.items(), wanted(factors).values(), strict=True):
        if value is not None:
            count = max(1, math.ceil(terms * outputs.size / max(1, value.size)))
            what = f"with training=True the gradient of {name}"
            compare(what, got, value, count, against="reference")
    names = weight_names(layer, layer.weights)
    kept = []
    for name, ours, theirs in zip(names, layer.weights, stock.weights, strict=True):
        if not ours.trainable:
            kept.append(name)
            what = f"what training=True leaves in {name}"
            compare(what, numpy(ours), numpy(theirs).astype(np.float64), terms, against="reference")
    return f"with {', '.join(kept)}" if kept else ""


CHECKS: dict[str, Callable[[Subject], str]] = {"training_reference": training_reference}
