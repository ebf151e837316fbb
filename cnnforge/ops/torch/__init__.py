"""Call ops under Keras' torch backend, as a `torch.autograd.Function`.

On the CPU, a compiled function of an op reads torch's tensors in place, and writes into tensors
that torch has allocated. A tensor is copied only if it is not contiguous or not aligned. If the op
names a module with CUDA functions (its parameter `cuda`), CUDA tensors are computed on torch's
current stream. Otherwise a CUDA tensor raises an error, whose message says what to do. Keras finds
the shapes of outputs with meta tensors, which have no data. For these, the outputs are meta tensors
too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import keras
import torch  # pyright: ignore[reportMissingImports]

from cnnforge.errors import UsageError
from cnnforge.ops.definition.definition import GRAD, Array, Step, parameters
from cnnforge.ops.torch.run import Call, runs_on, torch_dtype

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp


# Without this decorator, `torch.compile` would trace this function for seconds, without any gain.
@torch.compiler.disable
def call(op: ArrayOp, tensors: Sequence[Any], values: Mapping[str, Any]) -> Sequence[torch.Tensor]:
    """Apply an op.

    Args:
        op: The op.
        tensors: One for each input: a tensor, a variable, or a value that Keras converts.
        values: The value of every attribute.

    Returns:
        The outputs, on the device of the inputs.

    Raises:
        ValueError: The rank of an input is wrong, the shape rule rejects the shapes, or the inputs
            are on several devices.
        TypeError: The dtype of an input is wrong.
        UsageError: The inputs are on a device that the op cannot run on.
    """
    ready = []
    for item, value in zip(op.inputs, tensors, strict=True):
        if isinstance(value, keras.Variable):
            value = value.value
        elif not isinstance(value, torch.Tensor):
            _check_eager(op, item, value)
            value = keras.ops.convert_to_tensor(value)
        op.check_tensor(item, _dtype_name(value), value.dim())
        ready.append(_addressable(value))
    shapes = [tuple(tensor.shape) for tensor in ready]
    made = Call(op, values, shapes, op.output_shapes(shapes, values), _device(op, ready))
    if _computes_on_cpu():
        op.collect(shapes, values)
    return _Forward.apply(made, *ready)


def call_of(op: ArrayOp, tensor: Any) -> None:
    """Return `None`: torch computes eagerly, so every tensor has its values already."""


def padding_of(tensor: Any) -> None:
    """Return `None`: torch computes eagerly, so the padding has been computed already."""


def register(op: ArrayOp) -> None:
    """Do nothing: torch does not need to know an op in advance."""


def describe() -> str:
    """Describe in one line how ops are called under torch."""
    return f"torch: autograd.Function (torch {torch.__version__})"


@cache
def _computes_on_cpu() -> bool:
    """Whether Keras makes its tensors on the CPU, as decided by `KERAS_TORCH_DEVICE`.

    A symbolic tensor does not know its device, so read the environment variable, as Keras does.
    """
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return os.environ.get("KERAS_TORCH_DEVICE", default).startswith("cpu")


@cache
def _backward_plan(op: ArrayOp, needed: tuple[bool, ...]) -> tuple[tuple[Step, ...], set[str]]:
    """Return two values: the backward functions to run, and the names of their parameters.

    `needed` says for each input whether its gradient is needed. The names do not include arrays
    that are passed in only for their shapes.
    """
    wanted = {GRAD + item.name for item, need in zip(op.inputs, needed, strict=True) if need}
    steps = tuple(
        step for step in op.backward_steps if any(item.name in wanted for item in step.writes)
    )
    return steps, {name for step in steps for name in parameters(step.function)}


class _Forward(torch.autograd.Function):
    """The node of an op in torch's graph, which saves what the backward functions read."""

    @staticmethod
    def forward(ctx: Any, made: Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        op = made.op
        known = {item.name: tensor for item, tensor in zip(op.inputs, tensors, strict=True)}
        outputs = made.run(op.forward_step, known)
        known |= {item.name: tensor for item, tensor in zip(op.outputs, outputs, strict=True)}
        # Save only the tensors that a backward function will read, so that others can be freed.
        used = _backward_plan(op, ctx.needs_input_grad[1:])[1]
        ctx.made = made
        ctx.names = [name for name in known if name in used]
        ctx.save_for_backward(*(known[name] for name in ctx.names))
        ctx.mark_non_differentiable(
            *(t for item, t in zip(op.outputs, outputs, strict=True) if not item.is_float)
        )
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        made: Call = ctx.made
        made.op.check_differentiable()
        steps, read = _backward_plan(made.op, ctx.needs_input_grad[1:])
        known = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        for item, gradient, shape in zip(
            made.op.outputs, gradients, made.output_shapes, strict=True
        ):
            if item.is_float and GRAD + item.name in read:
                if gradient is None:
                    gradient = torch.zeros(shape, dtype=torch_dtype(item), device=made.device)
                known[GRAD + item.name] = _addressable(gradient)
        return None, *_Backward.apply(made, steps, tuple(known), *known.values())


class _Backward(torch.autograd.Function):
    """The node of the backward functions of an op. A gradient of this node raises an error."""

    @staticmethod
    def forward(
        ctx: Any, made: Call, steps: Sequence[Step], names: Sequence[str], *tensors: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        known = dict(zip(names, tensors, strict=True))
        found: dict[str, torch.Tensor] = {}
        for step in steps:
            results = made.run(step, known)
            found |= {item.name: t for item, t in zip(step.writes, results, strict=True)}
        ctx.name = made.op.name
        return tuple(found.get(GRAD + item.name) for item in made.op.inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> None:
        raise NotImplementedError(
            f"ArrayOp {ctx.name!r}: gradients of gradients are not available, as its backward "
            "functions have no backward functions; take only first gradients through it, or use a "
            "stock Keras layer there"
        )


def _check_eager(op: ArrayOp, item: Array, value: Any) -> None:
    if isinstance(value, keras.KerasTensor):
        raise ValueError(
            f"ArrayOp {op.name!r}: {item.name!r} is a KerasTensor, a placeholder of a functional "
            "model; call the op in the call() of a keras.Layer, and the layer on the KerasTensor"
        )


def _addressable(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous tensor of the same values, aligned to the size of an element.

    An op's function gets only the address and the shape of a tensor, so it cannot read another
    memory layout.
    """
    tensor = tensor.contiguous()
    if tensor.is_neg():
        # Such a tensor (the imaginary part of a conjugate) is stored with the opposite sign. So
        # copy it with its real sign.
        tensor = tensor.resolve_neg()
    if not tensor.is_meta and tensor.data_ptr() % tensor.element_size():
        tensor = tensor.clone()
    return tensor


def _device(op: ArrayOp, tensors: Sequence[torch.Tensor]) -> torch.device:
    """Return the device that an op runs on.

    Raises:
        ValueError: The tensors are on several devices.
        UsageError: The op cannot run on the device.
    """
    first = tensors[0].device
    for item, tensor in zip(op.inputs, tensors, strict=True):
        if tensor.device == first:
            continue
        if tensor.is_meta or first.type == "meta":
            # Keras finds the shapes of outputs with meta tensors. In this call some inputs are meta
            # tensors, and others are constants with values. Only the shapes of outputs are wanted.
            return torch.device("meta")
        raise ValueError(
            f"ArrayOp {op.name!r}: {op.inputs[0].name!r} is on {first}, {item.name!r} on "
            f"{tensor.device}; expected one device: move one of them with .to({str(first)!r})"
        )
    if not runs_on(op, first):
        raise UsageError(
            f"ArrayOp {op.name!r}: it has no implementation for the device {first}; use "
            "--kernels keras, or run on the CPU: set KERAS_TORCH_DEVICE=cpu before Python starts"
        )
    return first


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
