"""Warn if an op becomes part of a model that Keras exports: other programs do not know the op."""

from __future__ import annotations

import sys
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import keras

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp

# The exports that a warning was about; each of them traces the model several times.
_warned: WeakSet[Any] = WeakSet()
_FRAMEWORKS = ("keras", "tensorflow")


@cache
def _archive_class() -> type:
    # `ExportArchive` makes objects of another class, which depends on the backend.
    return type(keras.export.ExportArchive())


def warn(op: ArrayOp) -> None:
    """Warn, once for each export, if Keras traces this call of an op in order to export a model.

    Keras does not tell a layer why it is traced. So look for the export among the callers.

    Args:
        op: The op that is called in a graph.
    """
    archive = layer = None
    level = outside = 0
    frame: Any = sys._getframe(1)
    while frame is not None:
        level += 1
        owner = frame.f_locals.get("self")
        if isinstance(owner, _archive_class()):
            archive, outside = owner, 0
        elif layer is None and isinstance(owner, keras.layers.Layer):
            layer = type(owner).__name__
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if archive is not None and not outside and package not in _FRAMEWORKS:
            outside = level
        frame = frame.f_back
    if archive is None or archive in _warned:
        return
    _warned.add(archive)
    place = f" of the layer {layer}" if layer is not None else ""
    warnings.warn(
        f"the exported model contains the op {op.name!r}{place}, which only programs with cnnforge "
        "know: export cnnforge.conversion.lower(model) instead; it keeps a layer without a stock "
        "reference, whose model predicts by the inference plan of its run: cnnforge.load(RUN)",
        stacklevel=outside + 1,
    )
