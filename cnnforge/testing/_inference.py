"""Find out whether a trained network with a layer can predict without Keras."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from cnnforge.ops import find_single_call, import_path
from cnnforge.testing._subject import Subject


def inference(subjects: Sequence[Subject]) -> str:
    """Say whether the layer can be part of an inference plan, and if not, why.

    Both are right: Keras runs the networks that a plan cannot express.

    Args:
        subjects: The layer with each of its cases.
    """
    try:
        path = ""
        for subject in subjects:
            called = partial(subject.built(), training=False)
            path = import_path(find_single_call(called, [subject.case.input_shape[1:]]).op)
    except ValueError as error:
        return f"predictions need Keras: {error}"
    return f"predictions need no Keras, only {path}"
