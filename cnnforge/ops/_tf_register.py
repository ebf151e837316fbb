"""The C API route: steps of an op registered as ops of TensorFlow's, and nodes made of them."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.python.eager import context as eager_context
from tensorflow.python.eager import execute
from tensorflow.python.framework import op_def_library, op_def_registry

from cnnforge.ops import _tf_c_api as api
from cnnforge.ops._definition import GRAD, Array, Step
from cnnforge.ops._shapes import Shape
from cnnforge.ops._tf_compute import (
    FUNCTION_RAISED,
    NEGATIVE_SHAPE,
    SHAPE_RULE_RAISED,
    WRONG_RANK,
    compute,
    make_state,
)
from cnnforge.ops.entry import take_exception

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp

_lock = threading.RLock()

# Which op and step stand behind a registered type. The functions behind a type can be replaced
# (a notebook cell run twice); the type itself stays for the life of the process.
_steps: dict[str, tuple[ArrayOp, Step]] = {}
# A node's state holds the number of its step, for the messages of its errors.
_numbered: list[Step] = []
# Not `_lock`: who holds that may be waiting for TensorFlow, which may be waiting for a create.
_number_lock = threading.Lock()
_callbacks: list[Any] = []


@cache
def type_name(step: Step) -> str:
    """The name of a step as an op of TensorFlow's, for instance `Cnnforge>ScaleGradInputs`."""

    def camel(name: str) -> str:
        return "".join(part[:1].upper() + part[1:] for part in name.split("_"))

    written = "And".join(camel(item.name[len(GRAD) :]) for item in step.writes)
    return f"Cnnforge>{camel(step.op)}" + ("" if step.is_forward else f"Grad{written}")


def register(op: ArrayOp) -> None:
    """Register all steps of an op, unless that has been done.

    Raises:
        ValueError: The name is registered with other inputs, outputs or attributes.
    """
    # The forward step comes last: where it is known, so are the others.
    if _is_current(op, op.forward_step):
        return
    with _lock:
        for step in (*op.backward_steps, op.forward_step):
            if not _is_current(op, step):
                _register(op, step, type_name(step))


def _is_current(op: ArrayOp, step: Step) -> bool:
    known = _steps.get(type_name(step))
    return known is not None and known[0] is op


def _argument(prefix: str, item: Array) -> str:
    # Prefixed, as TensorFlow wants inputs, outputs and attributes to differ, and some names are
    # parameters of its functions ("name").
    return f"{prefix}_{item.name}"


def _register(op: ArrayOp, step: Step, name: str) -> None:
    inputs = [(_argument("in", item), tf.as_dtype(item.dtype)) for item in step.reads]
    outputs = [(_argument("out", item), tf.as_dtype(item.dtype)) for item in step.writes]
    known = op_def_registry.get(name)
    if known is not None:
        # TensorFlow aborts the process when a name is registered twice.
        same = [(item.name, tf.as_dtype(item.type)) for item in known.input_arg] == inputs and [
            (item.name, tf.as_dtype(item.type)) for item in known.output_arg
        ] == outputs
        if not same or name not in _steps or _steps[name][0].name != op.name:
            raise ValueError(
                f"{step.label}: TensorFlow has an op {name!r} with other arrays, and none can be "
                "replaced while the process lives; restart it, or name the op otherwise"
            )
        _steps[name] = (op, step)
        # The kernels that eager mode keeps hold the addresses of the functions of before.
        eager_context.context().clear_kernel_cache()
        return
    builder = api.new_op(name.encode())
    for argument, dtype in inputs:
        api.add_input(builder, f"{argument}: {dtype.name}".encode())
    for argument, dtype in outputs:
        api.add_output(builder, f"{argument}: {dtype.name}".encode())
    api.add_attribute(builder, b"attributes: list(int)")
    api.add_attribute(builder, b"shapes: list(int)")
    api.set_shape_function(builder, api.UNKNOWN_SHAPES)
    status = api.new_status()
    api.register_op(builder, status)
    api.check(status)
    create = _make_create(name, [dtype.as_datatype_enum for _, dtype in outputs])
    _callbacks.append(create)
    kernel = api.new_kernel(
        name.encode(), b"CPU", ctypes.cast(create, ctypes.c_void_p), compute.address, api.FREE
    )
    status = api.new_status()
    api.register_kernel(name.encode(), kernel, status)
    api.check(status)
    _steps[name] = (op, step)
    tf.RegisterGradient(name)(_forward_gradient if step.is_forward else _no_second_order)


def _make_create(name: str, dtypes: list[int]) -> Any:
    """The create callback of a type: runs once per node, in Python, and returns its state."""

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    def create(construction: int) -> int | None:
        try:
            op, step = _steps[name]
            words = _int64_list(construction, b"attributes")
            shapes = _int64_list(construction, b"shapes")
            values = op.decode(words)
            if shapes:
                op.prepare(_decode_shapes(op, shapes), values, gradient=not step.is_forward)
            with _number_lock:
                if step not in _numbered:
                    _numbered.append(step)
            number = _numbered.index(step)
            state = make_state(op.program(step), dtypes, words, _FAIL, number)
            address = api.malloc(state.nbytes)
            ctypes.memmove(address, state.ctypes.data, state.nbytes)
            return address
        except BaseException as error:
            status = api.new_status()
            message = f"{_steps[name][1].label}: {type(error).__name__}: {error}"
            api.set_status(status, api.INVALID_ARGUMENT, message.encode())
            api.construction_failure(construction, status)
            api.delete_status(status)
            return None

    return create


def _int64_list(construction: int, name: bytes) -> list[int]:
    size, total = ctypes.c_int32(), ctypes.c_int32()
    status = api.new_status()
    api.get_attribute_size(construction, name, ctypes.byref(size), ctypes.byref(total), status)
    api.check(status)
    values = (ctypes.c_int64 * max(size.value, 1))()
    status = api.new_status()
    api.get_attribute_int64_list(construction, name, values, size.value, status)
    api.check(status)
    return list(values[: size.value])


@ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
def _fail(number: int, code: int, where: int, context: int) -> None:
    """Report what the compute callback has found wrong. The only Python that it ever runs."""
    step = _numbered[number]
    error = take_exception() if code in (SHAPE_RULE_RAISED, FUNCTION_RAISED) else None
    text = f"{type(error).__name__}: {error}" if error is not None else "no exception"
    if code == WRONG_RANK:
        item = step.reads[where]
        text = f"{item.name!r} has another number of dimensions, expected {item.rank}"
    elif code == SHAPE_RULE_RAISED:
        text = f"the shape rule raised {text}"
    elif code == NEGATIVE_SHAPE:
        text = f"the shape rule gave {step.writes[where].name!r} a negative dimension"
    else:
        text = f"raised {text}"
    status = api.new_status()
    api.set_status(status, api.INVALID_ARGUMENT, f"{step.label}: {text}".encode())
    api.context_failure(context, status)
    api.delete_status(status)


_FAIL = ctypes.cast(_fail, ctypes.c_void_p).value


def _encode_shapes(shapes: Sequence[Shape]) -> list[int]:
    return [-1 if size is None else size for shape in shapes for size in shape]


def _decode_shapes(op: ArrayOp, words: Sequence[int]) -> list[Shape]:
    sizes = iter(words)
    return [
        tuple(None if size < 0 else size for size in itertools.islice(sizes, item.rank))
        for item in op.inputs
    ]


def _shape(tensor: tf.Tensor, rank: int) -> Shape:
    return (None,) * rank if tensor.shape.rank is None else tuple(tensor.shape)


def _make_node(
    op: ArrayOp,
    step: Step,
    tensors: Sequence[tf.Tensor],
    words: list[int],
    input_shapes: Sequence[Shape],
    shapes: Sequence[Shape] | None,
) -> list[tf.Tensor]:
    """Run a step eagerly, or add it to the graph.

    This is the only place that uses what TensorFlow does not document: `execute`, which runs an
    op by its name, and `apply_op`, which adds one to a graph; its generated wrappers of its own
    ops call the same two.
    """
    op.program(step)
    if op.has_prepare:
        op.prepare(input_shapes, op.decode(words), gradient=not step.is_forward)
    name = type_name(step)
    eager = tf.executing_eagerly()
    # In a graph the node carries the shapes, so that `prepare` can be called in the process that
    # loads it.
    hints = _encode_shapes(input_shapes) if op.has_prepare and not eager else []
    attributes = ("attributes", words, "shapes", hints)
    if eager:
        inputs = list(tensors)
        results = execute.execute(
            name, len(step.writes), inputs, attributes, eager_context.context()
        )
    else:
        keywords = {_argument("in", a): t for a, t in zip(step.reads, tensors, strict=True)}
        made = op_def_library.apply_op(name, attributes=words, shapes=hints, **keywords)
        results = list(made) if isinstance(made, (list, tuple)) else [made]
        inputs = results[0].op.inputs
        for result, shape in zip(results, shapes or (), strict=True):
            result.set_shape(shape)
    if execute.must_record_gradient():
        execute.record_gradient(name, inputs, attributes, results)
    return list(results)


def call(op: ArrayOp, tensors: Sequence[tf.Tensor], values: Mapping[str, Any]) -> list[tf.Tensor]:
    """Apply an op to checked tensors."""
    register(op)
    input_shapes = [_shape(t, item.rank) for t, item in zip(tensors, op.inputs, strict=True)]
    # In eager mode the kernel finds the shapes by itself; the rule runs here for its errors.
    shapes = op.output_shapes(input_shapes, values)
    return _make_node(op, op.forward_step, tensors, op.encode(values), input_shapes, shapes)


def _forward_gradient(node: Any, *gradients: tf.Tensor | None) -> list[tf.Tensor | None]:
    """The gradients of an op: one node per backward function, those not needed being pruned."""
    op = _steps[node.type][0]
    op.check_differentiable()
    register(op)
    words = list(node.get_attr("attributes"))
    known = {item.name: t for item, t in zip(op.inputs, node.inputs, strict=True)}
    known |= {item.name: t for item, t in zip(op.outputs, node.outputs, strict=True)}
    for item, gradient, output in zip(op.outputs, gradients, node.outputs, strict=True):
        if item.is_float:
            known[GRAD + item.name] = tf.zeros_like(output) if gradient is None else gradient
    # Eager mode says what is not needed; in a graph such nodes are pruned before it runs.
    skipped = set(getattr(node, "skip_input_indices", None) or ())
    wanted = {GRAD + item.name for i, item in enumerate(op.inputs) if i not in skipped}
    input_shapes = [_shape(known[item.name], item.rank) for item in op.inputs]
    found: dict[str, tf.Tensor] = {}
    for step in op.backward_steps:
        if not any(item.name in wanted for item in step.writes):
            continue
        tensors = [tf.convert_to_tensor(known[item.name]) for item in step.reads]
        sources = zip(step.shape_source or (), step.writes, strict=True)
        shapes = [_shape(known[source], item.rank) for source, item in sources]
        results = _make_node(op, step, tensors, words, input_shapes, shapes)
        found |= {item.name: t for item, t in zip(step.writes, results, strict=True)}
    return [found.get(GRAD + item.name) for item in op.inputs]


def second_order_error(op_name: str) -> NotImplementedError:
    """The error of a gradient of a gradient."""
    return NotImplementedError(
        f"ArrayOp {op_name!r}: gradients of gradients are not available, as its backward functions "
        "have no backward functions; take only first gradients through it, or use a stock Keras "
        "layer there"
    )


def _no_second_order(node: Any, *gradients: tf.Tensor | None) -> list[tf.Tensor | None]:
    raise second_order_error(_steps[node.type][0].name)
