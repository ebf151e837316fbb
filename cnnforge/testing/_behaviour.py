"""Check a layer with batches of other sizes, in a graph, in mixed precision and in training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import keras
import numpy as np

from cnnforge.backends import pullback
from cnnforge.testing._subject import (
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
from cnnforge.testing._values import compare
from cnnforge.utils.tolerance import assert_close

_HINTS = {
    # Each key is a part of an error message of Keras or TensorFlow. The value says what to do.
    "expected float32": "an op of float32 under another policy: cast its inputs to float32 and its "
    "outputs back to self.compute_dtype",
    "XLA": "set self.supports_jit = False in the constructor: XLA cannot compile an ArrayOp",
    "has no attribute 'numpy'": "in a graph tensors have no values yet: compute with keras.ops "
    "or an ArrayOp",
    "unexpected keyword argument 'dtype'": "let the constructor take **kwargs and pass them on to "
    "super().__init__(**kwargs)",
}


def batch_sizes(subject: Subject) -> str:
    """Require that the outputs of a sample do not depend on the batch.

    The batch size may differ from that with which the layer was built. It may be 0.
    """
    layer = subject.built()
    batch = subject.case.input_shape[0]
    odd = batch + 1 + batch % 2
    inputs = subject.inputs(batch=odd)
    with explained(f"a batch of {odd} fails; the layer was built for one of {batch}"):
        together = outputs_of(layer, inputs)
    if together.shape[:1] != (odd,):
        raise AssertionError(
            f"{odd} samples give outputs of the shape {together.shape}: the batch size is fixed "
            "somewhere"
        )
    for index in (0, odd - 1):
        with explained(f"a batch of 1 fails; the layer was built for one of {batch}"):
            alone = outputs_of(layer, inputs[index : index + 1])
        try:
            if alone.shape[:1] != (1,):
                raise AssertionError(f"one sample gives outputs of the shape {alone.shape}")
            assert_close(together[index], alone[0], subject.terms)
        except AssertionError as error:
            raise AssertionError(
                f"sample {index} of {odd} gives something else than alone: the batch size is fixed "
                f"somewhere, or samples affect each other ({error})"
            ) from None
    with explained("a batch of 0 samples fails"):
        empty, gradients = gradients_of(layer, inputs[:0])
        found = gradients(np.zeros(empty.shape, np.float32))
    if empty.shape != (0, *together.shape[1:]):
        raise AssertionError(
            f"no samples give outputs of the shape {empty.shape}, expected "
            f"{(0, *together.shape[1:])}"
        )
    for name, gradient in found.items():
        if gradient is not None and gradient.any():
            raise AssertionError(
                f"the gradient of {name} is not zero for a batch without samples: it must be set "
                "to zero before anything is added to it"
            )
    return ""


def eager_equals_graph(subject: Subject) -> str:
    """Require that outputs and gradients in a graph equal those in eager mode.

    One of the graphs has an unknown batch size.
    """
    if keras.backend.backend() != "tensorflow":
        return f"{keras.backend.backend()} has no graphs"
    tf = import_module("tensorflow")
    layer, inputs = subject.built(), subject.inputs()
    outputs, gradients = gradients_of(layer, inputs)
    factors = factors_like(outputs)
    expected = gradients(factors)

    def graph(inputs: Any, factors: Any) -> Any:
        outputs, pull = pullback(layer, inputs)
        return outputs, pull(factors)

    dtype = tf.as_dtype(outputs.dtype)
    for batch in (len(inputs), None):
        signature = [
            tf.TensorSpec((batch, *inputs.shape[1:]), tf.float32),
            tf.TensorSpec((batch, *outputs.shape[1:]), dtype),
        ]
        where = "in a graph" if batch else "in a graph for any batch size"
        with explained(f"the layer works eagerly and fails {where}", _HINTS):
            traced = tf.function(graph, input_signature=signature, autograph=False)
            found, pulled = traced(tensor(inputs), tensor(factors.astype(outputs.dtype)))
        terms = subject.terms
        compare(f"the output {where}", numpy(found), outputs, terms, against="eager result")
        for (name, value), got in zip(expected.items(), pulled, strict=True):
            if value is not None:
                compare(
                    f"the gradient of {name} {where}",
                    None if got is None else numpy(got),
                    value,
                    subject.grad_terms(value, outputs),
                    against="eager result",
                )
    return ""


def precision(subject: Subject) -> str:
    """Require that outputs have the dtype of the layer's policy, and that mixed precision works."""
    inputs = subject.inputs()
    expected: Array | None = None
    for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
        with warnings.catch_warnings():
            # A layer may warn that its kernel does not support the dtype. This check allows that.
            warnings.simplefilter("ignore")
            with explained(f"the policy {policy!r} fails", _HINTS):
                layer = subject.built(dtype=policy)
                outputs, pull = pullback(layer, tensor(inputs))
                dtype = keras.backend.standardize_dtype(single(outputs).dtype)
        if dtype != layer.compute_dtype:
            raise AssertionError(
                f"under the policy {policy!r} the outputs have the wrong dtype: {dtype}, expected "
                f"{layer.compute_dtype}; cast them to self.compute_dtype"
            )
        if policy == "mixed_bfloat16":
            continue
        values = numpy(outputs)
        with explained(f"under the policy {policy!r} the gradients fail", _HINTS):
            factors = keras.ops.cast(tensor(factors_like(values)), dtype)
            found = [numpy(gradient) for gradient in pull(factors) if gradient is not None]
        if not all(np.isfinite(array).all() for array in (values, *found)):
            raise AssertionError(f"under the policy {policy!r} some values are not finite")
        if expected is None:
            expected = values
        else:
            with explained(f"under the policy {policy!r}"):
                # The tolerance allows only for rounding the outputs to float16, but inputs, weights
                # and products are rounded too. So double it with 4 times as many terms: it grows
                # with their square root.
                assert_close(values, expected, 4 * subject.terms, np.float16)
    return ""


def training_step(subject: Subject) -> str:
    """Require that one training step of Keras changes every trainable weight.

    The loss and the new weights must be finite.
    """
    layer, inputs = subject.built(), subject.inputs()
    model = keras.Sequential([keras.Input(inputs.shape[1:]), layer])
    targets = np.random.default_rng(7).standard_normal(outputs_of(layer, inputs).shape)
    before = {
        name: numpy(weight)
        for name, weight in zip(
            weight_names(layer, layer.trainable_variables), layer.trainable_variables, strict=True
        )
    }
    with explained("a training step fails", _HINTS), warnings.catch_warnings():
        # Keras warns about missing gradients; this check reports them as failures.
        warnings.simplefilter("ignore")
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
        loss = float(_last(model.train_on_batch(inputs, targets.astype(np.float32))))
    if not np.isfinite(loss):
        raise AssertionError(f"the loss of one training step is {loss}")
    for (name, old), weight in zip(before.items(), layer.trainable_variables, strict=True):
        new = numpy(weight)
        if not np.isfinite(new).all():
            raise AssertionError(f"the weight {name} is not finite after one training step")
        if (new == old).all():
            raise AssertionError(
                f"the weight {name} did not change in one training step: its gradient is missing "
                "or zero"
            )
    return f"loss {loss:.3g}" if before else "no trainable weights"


def _last(value: Any) -> Any:
    return value[0] if isinstance(value, Sequence) else value


CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check
    for check in (
        batch_sizes,
        eager_equals_graph,
        precision,
        training_step,
    )
}
