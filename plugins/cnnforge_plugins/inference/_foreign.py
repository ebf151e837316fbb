"""Write the layers of other plugins as steps that call their op."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from cnnforge.ops import find_single_call, import_path
from cnnforge.utils.keras_graph import LayerCall
from cnnforge_plugins.inference._writer import Writer


def foreign(layer: Any, call: LayerCall, inputs: list[str], writer: Writer) -> str:
    """Add a step that calls the op of a plugin's layer.

    Args:
        layer: A layer that is not stock Keras.
        call: Its call.
        inputs: Names of the inputs.
        writer: It gets the step. It refuses the layer if its call is more than one op, or if the
            op cannot be imported without Keras.

    Returns:
        The name of the result.
    """
    shapes = [tuple(tensor.shape[1:]) for tensor in call.inputs]
    if None in sum(shapes, ()) or None in call.outputs[0].shape[1:]:
        writer.refuse("its inputs or outputs have no fixed size")
    try:
        found = find_single_call(lambda *tensors: _called(call, tensors), shapes)
        path = import_path(found.op)
    except ValueError as error:
        writer.refuse(str(error))
    arrays = {
        f"argument{place}": np.array(value)
        for place, value in enumerate(found.arguments)
        if not isinstance(value, int)
    }
    for item in (*found.op.inputs, found.op.outputs[found.output]):
        if item.dtype != np.float32:
            writer.refuse(f"{item.name!r} of its op is {item.dtype}: a plan computes in float32")
    return writer.add(
        "op",
        inputs,
        arrays,
        op=path,
        arguments=[
            value if isinstance(value, int) else f"argument{place}"
            for place, value in enumerate(found.arguments)
        ],
        attributes=dict(found.attributes),
        output=found.output,
        shape=[int(size) for size in call.outputs[0].shape[1:]],
    )


def _called(call: LayerCall, tensors: tuple[Any, ...]) -> Any:
    """Call a layer again, with other tensors, and not as in training."""
    replaced = {id(old): new for old, new in zip(call.inputs, tensors, strict=True)}

    def new_of(value: Any) -> Any:
        return replaced.get(id(value), value)

    arguments = keras.tree.map_structure(new_of, call.arguments)
    keywords = keras.tree.map_structure(new_of, {**call.keywords, "training": False})
    return call.layer(*arguments, **keywords)
