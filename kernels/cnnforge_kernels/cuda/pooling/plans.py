"""Choose the kernels that compute 2D pooling and its gradients.

A plan (``runtime/plans.py``) lists the kernels to run for one shape, with their grids and
arguments.
"""

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

# Threads per block: the default, then the alternatives.
_THREADS = (THREADS, 256, 512)


@dataclass(frozen=True)
class Pooling:
    """Shape and options of one 2D pooling.

    Attributes:
        inputs: Shape of the inputs, (N, H, W, C).
        window: Rows and columns of the window.
        strides: Strides along rows and columns.
        same: Whether the padding is SAME; otherwise it is VALID.
        aligned: Whether all arrays start at multiples of 16 bytes.
    """

    inputs: Shape
    window: Pair
    strides: Pair
    same: bool
    aligned: bool = True

    @property
    def outputs(self) -> Shape:
        """Shape of the outputs, (N, OH, OW, C)."""
        sizes = (
            output_size(self.inputs[1 + a], self.window[a], self.strides[a], 1, self.same)
            for a in (0, 1)
        )
        return (self.inputs[0], *sizes, self.inputs[3])

    @property
    def vector(self) -> int:
        """Number of channels that a thread computes."""
        return 4 if self.aligned and self.inputs[3] % 4 == 0 else 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Seven numbers that all kernels take.

        They are the height and width of the inputs, the rows and columns of the outputs, the top
        and left padding, and the number of channels divided by ``vector``.
        """
        padding = (
            padding_before(self.inputs[1 + a], self.window[a], self.strides[a], 1, self.same)
            for a in (0, 1)
        )
        lanes = self.inputs[3] // self.vector
        return (*self.inputs[1:3], *self.outputs[1:3], *padding, lanes)

    def kernel(self, maximum: bool, backward: bool, threads: int) -> Pool:
        """Return the constants that the kernel is compiled for."""
        return Pool(maximum, self.window, self.strides, self.vector, backward, threads)


@lru_cache(maxsize=1024)
def forward(p: Pooling, maximum: bool) -> Plan:
    """Plan the forward pass.

    The plan uses the arrays inputs, outputs and argmax (for ``maximum``).

    Raises:
        ValueError: The arrays are too large for the kernels.
    """
    if not prod(p.outputs):
        return Plan()
    check_images(inputs=p.inputs)
    options = {f"threads {threads}": partial(_forward, p, maximum, threads) for threads in _THREADS}
    return offer(f"{'max' if maximum else 'average'}_pool2d {p}", options)


def _forward(p: Pooling, maximum: bool, threads: int) -> Plan:
    tasks = prod(p.outputs) // p.vector
    names = ("inputs", "outputs", "argmax" if maximum else "outputs")
    specialization = p.kernel(maximum, False, threads)
    kernel = (windows_forward if side_by_side(specialization) else pool_forward)(specialization)
    return Plan((launch(kernel, (blocks(tasks, threads),), *names, *p.sizes, tasks),))


@lru_cache(maxsize=1024)
def backward(p: Pooling, maximum: bool) -> Plan:
    """Plan the gradient.

    The plan uses the arrays grad_outputs, grad_inputs and argmax (for ``maximum``).

    Raises:
        ValueError: The arrays are too large for the kernels.
    """
    if not prod(p.inputs):
        return Plan()
    check_images(inputs=p.inputs)
    options = {
        f"threads {threads}": partial(_backward, p, maximum, threads) for threads in _THREADS
    }
    return offer(f"{'max' if maximum else 'average'}_pool2d_grad {p}", options)


def _backward(p: Pooling, maximum: bool, threads: int) -> Plan:
    tasks = prod(p.inputs) // p.vector
    names = ("grad_outputs", "grad_inputs", "argmax" if maximum else "grad_outputs")
    specialization, windows = p.kernel(maximum, True, threads), ()
    kernel = (windows_backward if side_by_side(specialization) else pool_backward)(specialization)
    if side_by_side(specialization):
        windows = tuple(blocks(p.inputs[1 + a], p.window[a]) for a in (0, 1))
        tasks = p.inputs[0] * prod(windows) * (p.inputs[3] // p.vector)
    return Plan((launch(kernel, (blocks(tasks, threads),), *names, *p.sizes, tasks, *windows),))


@lru_cache(maxsize=1024)
def global_forward(inputs: Shape) -> Plan:
    """Plan global average pooling, (N, H, W, C) -> (N, C).

    The plan uses the arrays inputs and outputs. The mean of no pixels is NaN.

    Raises:
        ValueError: The arrays are too large for the kernels.
    """
    images, height, width, channels = inputs
    if not images * channels:
        return Plan()
    check_images(inputs=inputs)
    lanes = min(1 << (channels - 1).bit_length(), 32)
    # Put the images along x, because only the x axis of a grid may be longer than 65535.
    grid = images, blocks(channels, lanes)
    return Plan(
        (launch(global_average(lanes), grid, "inputs", "outputs", height * width, channels),)
    )


@lru_cache(maxsize=1024)
def global_backward(inputs: Shape, aligned: bool) -> Plan:
    """Plan the gradient of global average pooling.

    The plan uses the arrays grad_outputs and grad_inputs.

    Raises:
        ValueError: The arrays are too large for the kernels.
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
