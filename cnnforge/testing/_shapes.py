"""Check that everything that says a shape of the outputs says the same, also of other sizes.

No function of an op runs here: a wrong shape would make it write outside of its arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from cnnforge.errors import message_of
from cnnforge.ops.audit import only_shapes
from cnnforge.testing._subject import Subject, explained, single, tensor
from cnnforge.testing._values import oracle_of, weight_arrays

_RULE = (
    "compute_output_shape can return op.output_shape(...), which also computes with unknown sizes"
)


def output_shape(subject: Subject) -> str:
    """Require that computed, symbolic and actual outputs, and the oracle's, have the same shape.

    The sizes are those of the case, 1, 2, odd and even ones, and unknown ones.
    """
    for each in subject.variants:
        _compare(each)
    shape = subject.case.input_shape
    if not subject.sizes:
        return ""
    unknown = tuple(
        None if axis == 0 or axis in subject.sizes else size for axis, size in enumerate(shape)
    )
    try:
        with only_shapes():
            layer = subject.make()
            model = keras.Sequential([keras.Input(unknown[1:]), layer])
    except ValueError as error:
        return f"takes no inputs of unknown size: {message_of(error)[:120]}"
    except Exception as error:
        raise AssertionError(
            f"the layer fails on keras.Input for the shape {unknown}: {type(error).__name__}: "
            f"{message_of(error)[:200]}; raise a ValueError if the layer needs known sizes; {_RULE}"
        ) from error
    _agree(subject.make(), unknown, _actual(subject))
    with explained(f"built for inputs of the shape {unknown} it fails for {shape}"), only_shapes():
        found = tuple(model(tensor(subject.inputs())).shape)
    got = tuple(_actual(subject).shape)
    if found != got:
        raise AssertionError(f"built for the shape {unknown} it gives {found}, not {got}")
    return ""


def _actual(subject: Subject) -> Any:
    with only_shapes():
        return single(subject.built()(tensor(subject.inputs())))


def _compare(subject: Subject) -> None:
    layer, shape = subject.built(), subject.case.input_shape
    with explained(f"{subject.where}the layer fails"):
        actual = _actual(subject)
    got = tuple(actual.shape)
    expected = _of_oracle(subject, layer)
    if expected is not None and expected != got:
        raise AssertionError(
            f"for inputs of the shape {shape} the outputs have the shape {got}, those of the "
            f"oracle {expected}: the shape rule of the op is wrong, or the oracle"
        )
    try:
        declared = tuple(layer.compute_output_shape(shape))
    except NotImplementedError:
        # A layer need not define `compute_output_shape`. Without it, Keras calls the layer
        # symbolically to find the shape.
        declared = got
    except Exception as error:
        raise AssertionError(
            f"compute_output_shape({shape}) raises {type(error).__name__}: {message_of(error)}"
        ) from error
    if declared != got:
        raise AssertionError(
            f"compute_output_shape({shape}) is {declared}, and the outputs have the shape {got}; "
            f"{_RULE}"
        )
    _agree(subject.make(), (None, *shape[1:]), actual)


def _of_oracle(subject: Subject, layer: Any) -> tuple[int, ...] | None:
    if subject.case.oracle is None:
        return None
    inputs = subject.inputs().astype(np.float64)
    try:
        return oracle_of(subject, layer)(inputs, *weight_arrays(layer)).shape
    except Exception:
        # The check `oracle` reports an error, and an oracle need not compute other sizes than those
        # of the case.
        return None


def _agree(layer: Any, shape: tuple[int | None, ...], actual: Any) -> None:
    """Require that symbolic outputs have the shape and dtype of the actual outputs."""
    got = tuple(actual.shape)
    with explained(f"called on keras.Input for the shape {shape}"), only_shapes():
        outputs = single(layer(keras.Input(batch_shape=shape)))
    wrong = len(outputs.shape) != len(got) or any(
        size not in (None, real) for size, real in zip(outputs.shape, got, strict=False)
    )
    if wrong:
        raise AssertionError(
            f"for inputs of the shape {shape} the symbolic outputs have the shape "
            f"{tuple(outputs.shape)}, the actual ones {got}; is a size fixed that is not known?"
        )
    promised = keras.backend.standardize_dtype(outputs.dtype)
    real = keras.backend.standardize_dtype(actual.dtype)
    if promised != real:
        raise AssertionError(f"the symbolic outputs are {promised}, the actual ones {real}")


CHECKS: dict[str, Callable[[Subject], str]] = {"output_shape": output_shape}
