"""2D pooling and its gradients on a device: which kernels run for which shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod

from cnnforge_kernels.cuda.pooling.general import (
    THREADS,
    Pool,
    global_average,
    global_average_backward,
    pool_backward,
    pool_forward,
)
from cnnforge_kernels.cuda.pooling.windows import side_by_side, windows_backward, windows_forward
from cnnforge_kernels.cuda.runtime.plans import (
    Pair,
    Plan,
    Shape,
    blocks,
    check_images,
    launch,
    offer,
)
from cnnforge_kernels.geometry import output_size, padding_before

# Of a block: the usual, and others to choose from.
_THREADS = (THREADS, 256, 512)


@dataclass(frozen=True)
class Pooling:
    """Pooling of a given shape.

    Attributes:
        inputs: (N, H, W, C).
        window: rows and columns of the window; so are ``strides``.
        same: SAME padding, else VALID.
        aligned: all arrays start at multiples of 16 bytes.
    """

    inputs: Shape
    window: Pair
    strides: Pair
    same: bool
    aligned: bool = True

    @property
    def outputs(self) -> Shape:
        """(N, OH, OW, C)."""
        sizes = (
            output_size(self.inputs[1 + a], self.window[a], self.strides[a], 1, self.same)
            for a in (0, 1)
        )
        return (self.inputs[0], *sizes, self.inputs[3])

    @property
    def vector(self) -> int:
        """Channels of a thread."""
        return 4 if self.aligned and self.inputs[3] % 4 == 0 else 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height, width, rows, columns, top, left, lanes: arguments of all kernels."""
        padding = (
            padding_before(self.inputs[1 + a], self.window[a], self.strides[a], 1, self.same)
            for a in (0, 1)
        )
        lanes = self.inputs[3] // self.vector
        return (*self.inputs[1:3], *self.outputs[1:3], *padding, lanes)

    def kernel(self, maximum: bool, backward: bool, threads: int) -> Pool:
        """What a kernel is compiled for."""
        return Pool(maximum, self.window, self.strides, self.vector, backward, threads)


@lru_cache(maxsize=1024)
def forward(p: Pooling, maximum: bool) -> Plan:
    """The plan of the forward pass; arrays: inputs, outputs, winners (for ``maximum``).

    Raises:
        ValueError: too large for the kernels.
    """
    if not prod(p.outputs):
        return Plan()
    check_images(inputs=p.inputs)
    options = {f"threads {it}": partial(_forward, p, maximum, it) for it in _THREADS}
    return offer(f"{'max' if maximum else 'average'}_pool2d {p}", options)


def _forward(p: Pooling, maximum: bool, threads: int) -> Plan:
    tasks = prod(p.outputs) // p.vector
    names = ("inputs", "outputs", "winners" if maximum else "outputs")
    kind = p.kernel(maximum, False, threads)
    kernel = (windows_forward if side_by_side(kind) else pool_forward)(kind)
    return Plan((launch(kernel, (blocks(tasks, threads),), *names, *p.sizes, tasks),))


@lru_cache(maxsize=1024)
def backward(p: Pooling, maximum: bool) -> Plan:
    """The plan of the gradient; arrays: grad_outputs, grad_inputs, winners (for ``maximum``).

    Raises:
        ValueError: too large for the kernels.
    """
    if not prod(p.inputs):
        return Plan()
    check_images(inputs=p.inputs)
    options = {f"threads {it}": partial(_backward, p, maximum, it) for it in _THREADS}
    return offer(f"{'max' if maximum else 'average'}_pool2d_grad {p}", options)


def _backward(p: Pooling, maximum: bool, threads: int) -> Plan:
    tasks = prod(p.inputs) // p.vector
    names = ("grad_outputs", "grad_inputs", "winners" if maximum else "grad_outputs")
    kind, windows = p.kernel(maximum, True, threads), ()
    kernel = (windows_backward if side_by_side(kind) else pool_backward)(kind)
    if side_by_side(kind):
        windows = tuple(blocks(p.inputs[1 + a], p.window[a]) for a in (0, 1))
        tasks = p.inputs[0] * prod(windows) * (p.inputs[3] // p.vector)
    return Plan((launch(kernel, (blocks(tasks, threads),), *names, *p.sizes, tasks, *windows),))


@lru_cache(maxsize=1024)
def global_forward(inputs: Shape) -> Plan:
    """The plan of global average pooling, (N, H, W, C) -> (N, C); arrays: inputs, outputs.

    The mean of no pixels is NaN.

    Raises:
        ValueError: too large for the kernels.
    """
    images, height, width, channels = inputs
    if not images * channels:
        return Plan()
    check_images(inputs=inputs)
    lanes = min(1 << (channels - 1).bit_length(), 32)
    # Images stand along x, which may be long.
    grid = images, blocks(channels, lanes)
    return Plan(
        (launch(global_average(lanes), grid, "inputs", "outputs", height * width, channels),)
    )


@lru_cache(maxsize=1024)
def global_backward(inputs: Shape, aligned: bool) -> Plan:
    """The plan of its gradient; arrays: grad_outputs, grad_inputs.

    Raises:
        ValueError: too large for the kernels.
    """
    if not prod(inputs):
        return Plan()
    check_images(inputs=inputs)
    vector = 4 if aligned and inputs[3] % 4 == 0 else 1
    tasks = prod(inputs) // vector
    names = ("grad_outputs", "grad_inputs")
    numbers = (inputs[1] * inputs[2], inputs[3] // vector, tasks)
    kernel = global_average_backward(vector)
    return Plan((launch(kernel, (blocks(tasks, THREADS),), *names, *numbers),))
