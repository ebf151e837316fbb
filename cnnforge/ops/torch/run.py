"""Run the steps of an op on torch tensors, on the CPU or on a CUDA device."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from cnnforge.ops.compiling.program import exclusive
from cnnforge.ops.cuda_module import cuda_functions
from cnnforge.ops.definition.definition import GRAD, Array, Step, parameters

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp


def runs_on(op: ArrayOp, device: torch.device | str) -> bool:
    """Whether an op can run on a device.

    Args:
        op: The op.
        device: The device, as in the attribute `device` of a tensor.
    """
    kind = torch.device(device).type
    return kind in ("cpu", "meta") or (kind == "cuda" and op.cuda is not None)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of an op, with everything that its gradients need except tensors.

    Attributes:
        op: The op.
        values: The value of every attribute.
        shapes: The shape of every input.
        output_shapes: The shape of every output.
        device: The device that the op runs on.
    """

    op: ArrayOp
    values: Mapping[str, Any]
    shapes: Sequence[tuple[int, ...]]
    output_shapes: Sequence[tuple[int, ...]]
    device: torch.device

    def run(self, step: Step, known: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Run a step (one function of the op), and return the tensors that it writes.

        Args:
            step: The step.
            known: The tensors that the step reads, by name.
        """
        if step.shape_source is None:
            shapes = self.output_shapes
        else:
            shapes = [self._shape(source) for source in step.shape_source]
        results = [
            torch.empty(shape, dtype=torch_dtype(item), device=self.device)
            for item, shape in zip(step.writes, shapes, strict=True)
        ]
        if self.device.type == "cpu":
            self._run_on_cpu(step, known, results)
        elif self.device.type == "cuda":
            self._run_on_cuda(step, known, results)
        return results

    def _run_on_cpu(
        self, step: Step, known: Mapping[str, torch.Tensor], results: Sequence[torch.Tensor]
    ) -> None:
        op = self.op
        if op.has_prepare:
            op.prepare(self.shapes, self.values, gradient=not step.is_forward)
        if not op.programs[step].is_compiled:
            shapes = [self._shape(item.name) for item in step.reads]
            reads = [
                known[item.name].detach().numpy() if item.name in known else np.zeros(shape)
                for item, shape in zip(step.reads, shapes, strict=True)
            ]
            writes = [tensor.numpy() for tensor in results]
            op.programs[step].run_python([*reads, *writes], op.encode(self.values))
            return
        program = op.program(step)
        words: list[int] = []
        # The words of the argument block, in the order that `Program` defines.
        for item in step.reads:
            tensor = known.get(item.name)
            if tensor is None:
                # The function reads only the shape of this array, so it needs no address.
                words.append(0)
                words.extend(self._shape(item.name))
            else:
                words += (tensor.data_ptr(), *tensor.shape)
        for tensor in results:
            words += (tensor.data_ptr(), *tensor.shape)
        words += op.encode(self.values)
        block = array("q", words)
        with exclusive():
            program.entry(block.buffer_info()[0])

    def _run_on_cuda(
        self, step: Step, known: Mapping[str, torch.Tensor], results: Sequence[torch.Tensor]
    ) -> None:
        # A tensor that requires a gradient has no CUDA array interface, which Numba needs.
        arguments = {**self.values, **{name: it.detach() for name, it in known.items()}}
        arguments |= {item.name: tensor for item, tensor in zip(step.writes, results, strict=True)}
        with torch.cuda.device(self.device):
            cuda_functions(self.op)[step](
                **{name: arguments[name] for name in parameters(step.function)},
                stream=torch.cuda.current_stream().cuda_stream,
            )

    def _shape(self, name: str) -> tuple[int, ...]:
        for item, shape in zip(
            (*self.op.inputs, *self.op.outputs), (*self.shapes, *self.output_shapes), strict=True
        ):
            if name in (item.name, GRAD + item.name):
                return shape
        raise KeyError(name)


def torch_dtype(item: Array) -> torch.dtype:
    """Return torch's dtype of an array's elements."""
    return getattr(torch, item.dtype_name)
