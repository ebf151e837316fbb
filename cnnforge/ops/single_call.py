"""Find out whether a layer computes exactly one op, which then needs no Keras.

A trained network can run without Keras if each of its layers can. A layer of a plugin can if its
`call` only applies one `ArrayOp` to the layer's inputs and to values that do not depend on them,
such as weights.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from cnnforge.errors import message_of, one_line
from cnnforge.ops import routes
from cnnforge.ops.array_op import ArrayOp
from cnnforge.ops.definition.definition import Array
from cnnforge.plugin_host.discovery import ENTRY_POINT_GROUP
from cnnforge.utils import clean_import

# The layer is called with batches of these sizes, so that a value that depends on the inputs, or on
# their number, differs from call to call.
_BATCHES = (2, 3)


@dataclass(frozen=True)
class SingleCall:
    """The call of an op that is all that a layer computes.

    Attributes:
        op: The op.
        arguments: For each input of the op, the index of the layer's input that it is, or its
            value, which is the same in every call.
        attributes: The value of every attribute.
        output: Index of the op's output that is the layer's output.
    """

    op: ArrayOp
    arguments: tuple[int | np.ndarray, ...]
    attributes: Mapping[str, Any]
    output: int


class _Recorder:
    """A route that records calls of ops, and returns random outputs instead of computing them."""

    def __init__(self, random: np.random.Generator) -> None:
        self.calls: list[tuple[ArrayOp, list[np.ndarray], Mapping[str, Any], list[np.ndarray]]] = []
        self.error: Exception | None = None
        self._random = random

    def call(self, op: ArrayOp, tensors: Sequence[Any], values: Mapping[str, Any]) -> Sequence[Any]:
        import keras

        arrays = [_as_array(tensor) for tensor in tensors]
        try:
            for item, array in zip(op.inputs, arrays, strict=True):
                op.check_tensor(item, array.dtype.name, array.ndim)
            shapes: Any = op.output_shapes([array.shape for array in arrays], values)
        except (TypeError, ValueError) as error:
            # Keras adds text to an error in the call of a layer.
            self.error = error
            raise
        outputs = [
            _random_values(item, shape, self._random)
            for item, shape in zip(op.outputs, shapes, strict=True)
        ]
        self.calls.append((op, arrays, dict(values), outputs))
        return [keras.ops.convert_to_tensor(output) for output in outputs]

    def call_of(self, op: ArrayOp, tensor: Any) -> None:
        """Return `None`, as in eager mode."""

    def padding_of(self, tensor: Any) -> None:
        """Return `None`, as in eager mode."""

    def register(self, op: ArrayOp) -> None:
        """Do nothing."""

    def describe(self) -> str:
        """Describe the route in one line."""
        return "recorded"


def find_single_call(call: Callable[..., Any], shapes: Sequence[Sequence[int]]) -> SingleCall:
    """Find the call of an op that is all that a layer computes.

    The layer is called twice, eagerly and with random inputs. The op is not run: the layer gets
    random outputs instead. A value that is not changed on its way into the op, or out of it, is
    recognized by its bits.

    Args:
        call: Function that calls the layer with its inputs, float32 tensors.
        shapes: Shape of each input of the layer, without the batch axis.

    Returns:
        The call.

    Raises:
        ValueError: The layer computes something else. The message is the reason.
    """
    random = np.random.default_rng(0)
    first, second = (_traced(call, shapes, batch, random) for batch in _BATCHES)
    (op, arrays, values, outputs), inputs, result = first
    if second[0][0] is not op or dict(second[0][2]) != dict(values):
        raise ValueError("its call does not apply the same op with the same attributes each time")
    arguments: list[int | np.ndarray] = []
    for place, item in enumerate(op.inputs):
        before, after = arrays[place], second[0][1][place]
        index = _index(before, inputs)
        if index is not None and _index(after, second[1]) == index:
            arguments.append(index)
        elif _same(before, after):
            arguments.append(before)
        else:
            raise ValueError(
                f"its call changes the input {item.name!r} of the op {op.name!r} before it applies "
                "the op, or passes another value each time"
            )
    output = _index(result, outputs)
    if output is None or _index(second[2], second[0][3]) != output:
        raise ValueError(f"its call changes the output of the op {op.name!r}")
    return SingleCall(op, tuple(arguments), values, output)


def import_path(op: ArrayOp) -> str:
    """Return the import path `"module:attribute"` at which an op can be imported without Keras.

    Args:
        op: An op that is an attribute of a module.

    Raises:
        ValueError: The op cannot be imported so. The message is the reason.
    """
    function = op.forward_step.function
    # Under NUMBA_DISABLE_JIT=1 it is a Python function itself.
    home = getattr(function, "py_func", function).__module__
    package = home.partition(".")[0]
    modules = [home, *(name for name in list(sys.modules) if name.partition(".")[0] == package)]
    paths = [
        f"{name}:{attribute}"
        for name in dict.fromkeys(modules)
        for attribute, value in vars(sys.modules.get(name, object)).items()
        if value is op
    ]
    if not paths:
        raise ValueError(
            f"its op {op.name!r} is not an attribute of a module: assign it to a name at the top "
            "of a module"
        )
    reasons = [clean_import.import_error(path, tuple(sys.path)) for path in paths]
    if "" in reasons:
        return paths[reasons.index("")]
    raise ValueError(
        f"its op {paths[0]} cannot be imported without Keras ({reasons[0]}): define the op in an "
        "installed module that imports no framework"
    )


def load_op(path: str) -> ArrayOp:
    """Import an op that the file of a trained network names.

    Only modules of installed plugins are imported for it, so that a file cannot name another one.

    Args:
        path: Import path of the op, `"module:attribute"`.

    Raises:
        ValueError: No installed plugin has this op. The message is the reason.
    """
    module = path.partition(":")[0]
    package = module.partition(".")[0]
    installed = {each.value.partition(".")[0] for each in entry_points(group=ENTRY_POINT_GROUP)}
    if module not in sys.modules and package not in installed:
        raise ValueError(f"it needs the op {path}, and no installed plugin has the module {module}")
    try:
        op = pkgutil.resolve_name(path)
    except Exception as error:
        raise ValueError(f"its op {path} cannot be imported: {one_line(error)}") from error
    if not isinstance(op, ArrayOp):
        raise ValueError(f"{path} is a {type(op).__name__}, expected an ArrayOp")
    return op


def _traced(
    call: Callable[..., Any], shapes: Sequence[Sequence[int]], batch: int, random: Any
) -> tuple[Any, list[np.ndarray], np.ndarray]:
    """Return the only call of an op, the inputs of the layer, and its output."""
    import keras

    inputs = [_random_floats((batch, *shape), random) for shape in shapes]
    recorder = _Recorder(random)
    with routes.replaced(recorder):
        try:
            result = call(*map(keras.ops.convert_to_tensor, inputs))
        except Exception as error:
            reason = message_of(recorder.error or error)
            raise ValueError(f"its call fails with random inputs: {reason}") from error
    if len(recorder.calls) != 1:
        names = ", ".join(called[0].name for called in recorder.calls)
        applied = f"applies {len(recorder.calls)} ops ({names})" if names else "applies no ArrayOp"
        raise ValueError(f"its call {applied}, expected exactly one")
    return recorder.calls[0], inputs, _as_array(result)


def _as_array(tensor: Any) -> np.ndarray:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor))


def _random_values(item: Array, shape: Sequence[int], random: Any) -> np.ndarray:
    if item.is_float:
        return _random_floats(shape, random).astype(item.dtype)
    return random.integers(0, 2, shape).astype(item.dtype)


def _random_floats(shape: Sequence[int], random: Any) -> np.ndarray:
    """Return values of all magnitudes, with NaN and infinity, which few functions keep."""
    values = random.standard_normal(shape) * 10 ** random.uniform(-6, 6, shape)
    # Small arrays need all their values to differ from each other.
    for place, special in enumerate((np.nan, np.inf, -np.inf, -0.0) if values.size >= 8 else ()):
        values.flat[place :: max(8, values.size // 3)] = special
    return values.astype(np.float32)


def _index(array: np.ndarray, others: Sequence[np.ndarray]) -> int | None:
    return next((i for i, other in enumerate(others) if _same(array, other)), None)


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return (first.dtype, first.shape) == (second.dtype, second.shape) and (
        first.tobytes() == second.tobytes()
    )
