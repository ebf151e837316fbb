"""Compare a layer with its reference (the stock layer), both called with `training=True`.

Only layers whose method `call` has an argument `training` are checked.
"""

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

# Min number of values from which a layer computes a mean and a variance. If a layer normalizes
# fewer values, a gradient may consist only of rounding errors, which cannot be compared.
_MIN_STATISTIC = 32


def training_reference(subject: Subject) -> str:
    """Compare outputs, gradients and updated statistics with the reference in training mode."""
    layer = subject.built()
    # A layer with variables that are not weights draws random numbers: these variables hold the
    # state of its generator. In another precision the generator would draw other numbers.
    draws = len(layer.variables) > len(layer.weights)
    stock = stock_of(subject, layer, layer.compute_dtype if draws else "float64")
    for theirs, ours in zip(stock.variables, layer.variables, strict=True):
        theirs.assign(ours)
    batch, *sizes = subject.case.input_shape
    positions = max(1, math.prod(sizes[:-1]))
    inputs = subject.inputs(batch=max(batch, math.ceil(_MIN_STATISTIC / positions)))
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
