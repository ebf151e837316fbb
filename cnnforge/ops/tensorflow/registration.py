"""The C API route: steps of an op registered as ops of TensorFlow's, and nodes made of them."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.python.eager import context as eager_context
from tensorflow.python.eager import execute, record
from tensorflow.python.framework import op_def_library, op_def_registry

from cnnforge.ops.definition.definition import GRAD, Array, Step
from cnnforge.ops.definition.shapes import Shape
from cnnforge.ops.tensorflow import c_api as api
from cnnforge.ops.tensorflow import cuda as _tf_cuda
from cnnforge.ops.tensorflow.callbacks import State, cpu_state, make_create, steps
from cnnforge.ops.tensorflow.compute import compute

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp
    from cnnforge.ops.tensorflow.cuda.registration import CudaKernels

_lock = threading.RLock()

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
    # Before the lock: what is tried out on a device registers an op of its own.
    register_steps(op, _tf_cuda.kernels(op))


def register_steps(op: ArrayOp, cuda: CudaKernels | None) -> None:
    """Register all steps of an op, with what computes them on CUDA devices, if there is anything.

    A type that is registered already keeps the kinds of devices that it has.
    """
    with _lock:
        for step in (*op.backward_steps, op.forward_step):
            if not _is_current(op, step):
                _register(op, step, type_name(step), cuda)


def _is_current(op: ArrayOp, step: Step) -> bool:
    known = steps.get(type_name(step))
    return known is not None and known[0] is op


def _argument(prefix: str, item: Array) -> str:
    # Prefixed, as TensorFlow wants inputs, outputs and attributes to differ, and some names are
    # parameters of its functions ("name").
    return f"{prefix}_{item.name}"


def _register(op: ArrayOp, step: Step, name: str, cuda: CudaKernels | None) -> None:
    inputs = [(_argument("in", item), tf.as_dtype(item.dtype)) for item in step.reads]
    outputs = [(_argument("out", item), tf.as_dtype(item.dtype)) for item in step.writes]
    known = op_def_registry.get(name)
    if known is not None:
        # TensorFlow aborts the process when a name is registered twice.
        same = [(item.name, tf.as_dtype(item.type)) for item in known.input_arg] == inputs and [
            (item.name, tf.as_dtype(item.type)) for item in known.output_arg
        ] == outputs
        if not same or name not in steps or steps[name][0].name != op.name:
            raise ValueError(
                f"{step.label}: TensorFlow has an op {name!r} with other arrays, and none can be "
                "replaced while the process lives; restart it, or name the op otherwise"
            )
        steps[name] = (op, step)
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
    _register_kernel(name, "CPU", cpu_state, compute.address)
    if cuda is not None:
        _register_kernel(name, cuda.kind, cuda.state_of, cuda.address)
    steps[name] = (op, step)
    tf.RegisterGradient(name)(_forward_gradient if step.is_forward else _no_second_order)


def _register_kernel(name: str, device: str, state_of: Callable[..., State], address: int) -> None:
    """Register what computes a type on a kind of device.

    Args:
        name: The type.
        device: What TensorFlow calls the kind.
        state_of: Makes the state of a node, as `cpu_state` does.
        address: That of the compute callback.
    """
    create = make_create(name, state_of)
    _callbacks.append(create)
    pointer = ctypes.cast(create, ctypes.c_void_p)
    kernel = api.new_kernel(name.encode(), device.encode(), pointer, address, api.FREE)
    status = api.new_status()
    api.register_kernel(name.encode(), kernel, status)
    api.check(status)


def _encode_shapes(shapes: Sequence[Shape]) -> list[int]:
    return [-1 if size is None else size for shape in shapes for size in shape]


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

    With `record` in `call`, which knows what a tape watches, this is the only place that uses what
    TensorFlow does not document: `execute`, which runs an op by its name, and `apply_op`, which
    adds one to a graph; its generated wrappers of its own ops call the same two.
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
    if op.expects_compilation:
        wanted = [record.should_record_backprop([tensor]) for tensor in tensors]
        op.expect(input_shapes, values, wanted, in_graph=not tf.executing_eagerly())
    return _make_node(op, op.forward_step, tensors, op.encode(values), input_shapes, shapes)


def _forward_gradient(node: Any, *gradients: tf.Tensor | None) -> list[tf.Tensor | None]:
    """The gradients of an op: one node per backward function, those not needed being pruned."""
    op = steps[node.type][0]
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
    raise second_order_error(steps[node.type][0].name)
