"""Compute one benchmark case (a ``Row`` of rows.py) in PyTorch, which uses cuDNN.

A *variant* is one way to compute the case. Each memory layout is measured as a separate variant. A
block (convolution, ReLU and pool) also has variants with and without ``torch.compile``. A gradient
of a convolution is one call of a low-level function of PyTorch (``torch.ops.aten``), so nothing
else is timed. In a bfloat16 row, PyTorch's tensors are bfloat16, as users of PyTorch would choose.
Our kernels read float32 tensors and round the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from gpu.rows import Row

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
_aten = torch.ops.aten


@dataclass(frozen=True)
class Ready:
    """A variant with its tensors, ready to run.

    Attributes:
        run: Function that computes the row and returns PyTorch's results.
        named: Function that converts these results to a dict by name, of float32 tensors in our
            layouts (NHWC, and HWIO for weights).
    """

    run: Callable[[], Any]
    named: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """One way to compute a row in PyTorch.

    Attributes:
        name: Name such as ``"channels_last"`` or ``"compiled contiguous"``.
        comparable: Whether the variant computes the same values as our kernels.
        make: Function that makes a ``Ready`` from a dict of our float32 tensors (NHWC, and HWIO
            for weights).
    """

    name: str
    comparable: bool
    make: Callable[[Mapping[str, Any]], Ready]

    def distance(self, ready: Ready, ours: Mapping[str, Any], names: Iterable[str]) -> float:
        """Return the maximum ``distance`` between results of PyTorch and ours with these names."""
        found = ready.named(ready.run())
        apart = [distance(ours[name], found[name]) for name in names if name in found]
        # Replace NaN by infinity, because `max` may ignore a NaN.
        return max(one if one == one else float("inf") for one in apart)


def padding(row: Row) -> int | None:
    """Return the padding for PyTorch that equals SAME; ``None`` if SAME pads the sides unequally.

    PyTorch pads both sides equally. For example, with 7x7 filters and a stride of 2 on 112 pixels,
    SAME pads 2 pixels before and 3 after. Users of PyTorch then pad 3 pixels on both sides, which
    is the same amount of work but gives other values.
    """
    window, before = row.weights[0], set()
    for size, count in zip(row.inputs[1:3], row.convolved[1:3], strict=True):
        total = max((count - 1) * row.stride + window - size, 0)
        before.add((total // 2, total - total // 2))
    (one,) = before
    return one[0] if one[0] == one[1] else None


def variants(row: Row, compiler: str = "inductor") -> list[Variant]:
    """Return all variants of a row in PyTorch.

    First delete the compiled code of earlier rows, because PyTorch compiles a function for at most
    eight shapes.

    Args:
        row: The row.
        compiler: Backend of ``torch.compile``.
    """
    if row.op in ("max", "average"):
        return [Variant(name, True, partial(_pool, row, form)) for name, form in LAYOUTS.items()]
    same = padding(row) is not None
    if row.op != "block":
        return [
            Variant(name, same, partial(_convolution, row, form)) for name, form in LAYOUTS.items()
        ]
    step, around = row.stride, _around(row)

    def block(x: Any, w: Any, b: Any) -> Any:
        return functional.max_pool2d(functional.relu(functional.conv2d(x, w, b, step, around)), 2)

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, dynamic=False, backend=compiler)
    return [
        Variant(f"{how}{name}", same, partial(_block, row, form, function))
        for how, function in (("compiled ", compiled), ("", block))
        for name, form in LAYOUTS.items()
    ]


def _images(row: Row, tensor: Any, form: Any) -> Any:
    made = tensor.permute(0, 3, 1, 2)
    if row.precision == "bfloat16":
        made = made.to(torch.bfloat16)
    # Do not use `contiguous`. The strides of a tensor with one channel fit both memory layouts, so
    # `contiguous` would return that tensor unchanged, without the strides of `form`.
    return made.clone(memory_format=form)


def _weights(row: Row, tensor: Any, form: Any) -> Any:
    order = (2, 3, 0, 1) if row.op == "depthwise" else (3, 2, 0, 1)
    made = tensor.permute(*order)
    if row.precision == "bfloat16":
        made = made.to(torch.bfloat16)
    return made.clone(memory_format=form)


def _nhwc(tensor: Any) -> Any:
    return tensor.detach().float().permute(0, 2, 3, 1).contiguous()


def _hwio(row: Row, tensor: Any) -> Any:
    order = (2, 3, 0, 1) if row.op == "depthwise" else (2, 3, 1, 0)
    return tensor.detach().float().permute(*order).contiguous()


def _around(row: Row) -> int:
    found = padding(row)
    return row.weights[0] // 2 if found is None else found


def _convolution(row: Row, form: Any, arrays: Mapping[str, Any]) -> Ready:
    x, w = _images(row, arrays["inputs"], form), _weights(row, arrays["weights"], form)
    groups = row.inputs[3] if row.op == "depthwise" else 1
    step, around = [row.stride] * 2, [_around(row)] * 2
    if row.which == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return functional.conv2d(x, w, None, step, around, 1, groups)

        return Ready(forward, lambda outputs: {"outputs": _nhwc(outputs)})
    g = _images(row, arrays["grad_outputs"], form)
    mask = [row.which == "grad_inputs", row.which == "grad_weights", False]

    def gradient() -> Any:
        return _aten.convolution_backward(
            g, x, w, None, step, around, [1, 1], False, [0, 0], groups, mask
        )

    def named(raw: Any) -> dict[str, Any]:
        if row.which == "grad_inputs":
            return {"grad_inputs": _nhwc(raw[0])}
        return {"grad_weights": _hwio(row, raw[1])}

    return Ready(gradient, named)


def _block(row: Row, form: Any, function: Any, arrays: Mapping[str, Any]) -> Ready:
    x, w = _images(row, arrays["inputs"], form), _weights(row, arrays["weights"], form)
    b = arrays["bias"].clone()
    if row.which == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return function(x, w, b)

        return Ready(forward, lambda outputs: {"outputs": _nhwc(outputs)})
    g = _images(row, arrays["grad_outputs"], form)
    sources = [w.requires_grad_(), b.requires_grad_()]
    if row.grad_inputs:
        sources.append(x.requires_grad_())

    def full() -> Any:
        outputs = function(x, w, b)
        return outputs, *torch.autograd.grad(outputs, sources, g)

    def named(raw: Any) -> dict[str, Any]:
        found = {"outputs": _nhwc(raw[0]), "grad_weights": _hwio(row, raw[1]), "grad_bias": raw[2]}
        return found | ({"grad_inputs": _nhwc(raw[3])} if row.grad_inputs else {})

    return Ready(full, named)


def _pool(row: Row, form: Any, arrays: Mapping[str, Any]) -> Ready:
    x = _images(row, arrays["inputs"], form)
    maximum = row.op == "max"
    if row.which == "forward":
        function = functional.max_pool2d if maximum else functional.avg_pool2d

        def forward() -> Any:
            with torch.no_grad():
                return function(x, 2)

        return Ready(forward, lambda outputs: {"outputs": _nhwc(outputs)})
    g = _images(row, arrays["grad_outputs"], form)
    window, none = [2, 2], [0, 0]
    if maximum:
        cells = functional.max_pool2d(x, 2, return_indices=True)[1]

        def backward() -> Any:
            return _aten.max_pool2d_with_indices_backward(
                g, x, window, window, none, [1, 1], False, cells
            )
    else:

        def backward() -> Any:
            return _aten.avg_pool2d_backward(g, x, window, window, none, False, True, None)

    return Ready(backward, lambda gradient: {"grad_inputs": _nhwc(gradient)})


def distance(ours: Any, theirs: Any) -> float:
    """Return the relative distance of two tensors, ``|ours - theirs| / |theirs|`` (2-norms)."""
    one, other = ours.double(), theirs.double()
    return float((one - other).norm() / other.norm().clamp_min(1e-300))
