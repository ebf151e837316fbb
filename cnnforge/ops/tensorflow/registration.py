"""Register the functions of an op as TensorFlow ops through the C API, and call these ops."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from tensorflow.python.eager import context as eager_context
from tensorflow.python.eager import execute
from tensorflow.python.framework import op_def_library, op_def_registry

from cnnforge.ops import ahead
from cnnforge.ops.definition.definition import GRAD, Array, Step
from cnnforge.ops.definition.shapes import Shape
from cnnforge.ops.tensorflow import c_api as api
from cnnforge.ops.tensorflow.callbacks import State, cpu_state, make_create, steps
from cnnforge.ops.tensorflow.compute import compute

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp
    from cnnforge.ops.tensorflow.cuda.registration import CudaKernels

_lock = threading.RLock()

_callbacks: list[Any] = []

cuda_kernels: Callable[[ArrayOp], CudaKernels | None] | None = None
"""Function that returns the kernels of an op for CUDA devices. `cnnforge.ops.tensorflow` assigns
it, because this module cannot import `cuda`: the self-test of `cuda` imports this module."""


@cache
def type_name(step: Step) -> str:
    """Return the name of a step as a TensorFlow op type, such as `Cnnforge>ScaleGradInputs`."""

    def camel(name: str) -> str:
        return "".join(part[:1].upper() + part[1:] for part in name.split("_"))

    written = "And".join(camel(item.name[len(GRAD) :]) for item in step.writes)
    return f"Cnnforge>{camel(step.op)}" + ("" if step.is_forward else f"Grad{written}")


def register(op: ArrayOp) -> None:
    """Register all steps of an op, if they are not registered yet.

    Raises:
        ValueError: The name is registered with other inputs, outputs or attributes.
    """
    # The forward step is registered last. So if it is registered, all steps are.
    if _is_current(op, op.forward_step):
        return
    # Do not call `cuda_kernels` while holding `_lock`: it may run the self-test of a device, which
    # registers an op on another thread. That thread would wait for the lock forever.
    register_steps(op, cuda_kernels(op) if cuda_kernels else None)


def register_steps(op: ArrayOp, kernels: CudaKernels | None) -> None:
    """Register all steps of an op, with kernels for CUDA devices if there are any.

    If an op type is registered already, no kernels are added to it.
    """
    with _lock:
        for step in (*op.backward_steps, op.forward_step):
            if not _is_current(op, step):
                _register(op, step, type_name(step), kernels)


def _is_current(op: ArrayOp, step: Step) -> bool:
    known = steps.get(type_name(step))
    return known is not None and known[0] is op


def _argument(prefix: str, item: Array) -> str:
    # The prefix makes the names of inputs, outputs and attributes different, as TensorFlow demands.
    # It also avoids names such as "name", which are parameters of TensorFlow's functions.
    return f"{prefix}_{item.name}"


def _register(op: ArrayOp, step: Step, name: str, kernels: CudaKernels | None) -> None:
    inputs = [(_argument("in", item), tf.as_dtype(item.dtype)) for item in step.reads]
    outputs = [(_argument("out", item), tf.as_dtype(item.dtype)) for item in step.writes]
    known = op_def_registry.get(name)
    if known is not None:
        # TensorFlow aborts the process if a name is registered twice.
        same = [(item.name, tf.as_dtype(item.type)) for item in known.input_arg] == inputs and [
            (item.name, tf.as_dtype(item.type)) for item in known.output_arg
        ] == outputs
        if not same or name not in steps or steps[name][0].name != op.name:
            raise ValueError(
                f"{step.label}: TensorFlow has an op {name!r} with other arrays, which cannot be "
                "replaced in this process; restart it, or give the op another name"
            )
        steps[name] = (op, step)
        # Eager mode keeps kernels in a cache. The old kernels would still call the old functions.
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
    if kernels is not None:
        _register_kernel(name, kernels.kind, kernels.state_of, kernels.address)
    steps[name] = (op, step)
    tf.RegisterGradient(name)(_forward_gradient if step.is_forward else _no_second_order)


def _register_kernel(name: str, device: str, state_of: Callable[..., State], address: int) -> None:
    """Register a kernel that computes an op type on a kind of device.

    Args:
        name: TensorFlow's name of the op type.
        device: TensorFlow's name of the kind of device, such as "CPU".
        state_of: Function that makes the state of a node, like `cpu_state`.
        address: Address of the compute callback.
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
    """Run a step (one function of an op) eagerly, or add it to the graph as a node.

    This is the only place that uses undocumented functions of TensorFlow: `execute`, which runs an
    op by its name, and `apply_op`, which adds an op to a graph. TensorFlow's generated wrappers of
    its own ops call the same two functions.
    """
    if not ahead.is_collecting():
        op.program(step)
        if op.has_prepare:
            op.prepare(input_shapes, op.decode(words), gradient=not step.is_forward)
    name = type_name(step)
    eager = tf.executing_eagerly()
    # A node of a graph keeps the shapes as an attribute. So a process that loads the graph can call
    # `prepare` with them.
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
    """Apply an op to tensors whose dtypes and ranks have been checked."""
    register(op)
    input_shapes = [_shape(t, item.rank) for t, item in zip(tensors, op.inputs, strict=True)]
    # In eager mode the kernel calls the shape rule too. But TensorFlow would replace an exception
    # of that call by one of its own, so call the rule here first.
    shapes = op.output_shapes(input_shapes, values)
    op.collect(input_shapes, values)
    return _make_node(op, op.forward_step, tensors, op.encode(values), input_shapes, shapes)


def call_of(op: ArrayOp, tensor: Any) -> tuple[list[tf.Tensor], dict[str, Any]] | None:
    """Return the inputs and attributes of the node that computes a tensor of the current graph."""
    # A tensor with values has no graph, also if a function that is traced reads it.
    if not tf.is_symbolic_tensor(tensor) or tensor.graph is not tf.compat.v1.get_default_graph():
        return None
    node: Any = tensor.op
    if node.type != type_name(op.forward_step):
        return None
    return list(node.inputs), op.decode(list(node.get_attr("attributes")))


def _forward_gradient(node: Any, *gradients: tf.Tensor | None) -> list[tf.Tensor | None]:
    """Return the gradients of an op. Each backward function that is needed becomes one node."""
    op = steps[node.type][0]
    op.check_differentiable()
    register(op)
    words = list(node.get_attr("attributes"))
    known = {item.name: t for item, t in zip(op.inputs, node.inputs, strict=True)}
    known |= {item.name: t for item, t in zip(op.outputs, node.outputs, strict=True)}
    for item, gradient, output in zip(op.outputs, gradients, node.outputs, strict=True):
        if item.is_float:
            known[GRAD + item.name] = tf.zeros_like(output) if gradient is None else gradient
    # Only eager mode knows here which gradients are not needed. In a graph, TensorFlow later
    # removes the nodes of gradients that nothing reads.
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
    """Return the error for a gradient of a gradient."""
    return NotImplementedError(
        f"ArrayOp {op_name!r}: gradients of gradients are not available, as its backward functions "
        "have no backward functions; take only first gradients through it, or use a stock Keras "
        "layer there"
    )


def _no_second_order(node: Any, *gradients: tf.Tensor | None) -> list[tf.Tensor | None]:
    raise second_order_error(steps[node.type][0].name)
