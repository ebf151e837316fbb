"""The op of the Gabor layer: it computes the bank of filters, and convolves with it.

A Gabor function is a wave multiplied by a bell curve. It responds to edges and stripes of one
orientation and width, as simple cells of the visual cortex do (J. G. Daugman, "Uncertainty relation
for resolution in space, spatial frequency, and orientation optimized by two-dimensional visual
cortical filters", 1985).

The bank, an array with the pixels of all filters, is a second output of the op, because the
backward functions read it. The convolution is computed by cnnforge's kernel. Functions that call
kernels are compiled with `cached_njit`, so that they are compiled again after an update of
cnnforge. This module does not import Keras, so a trained network runs without Keras.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnforge.ops import ArrayOp
from cnnforge_kernels.authoring import (
    cached_njit,
    conv2d_forward,
    conv2d_grad_inputs,
    conv2d_grad_weights,
)


@cached_njit()
def wave_and_bell(
    row: int, column: int, orientation: float, frequency: float, log_width: float, phase: float
) -> tuple[float, float, float]:
    """Return three numbers that describe a Gabor function at one pixel.

    Args:
        row: Number of pixels below the centre.
        column: Number of pixels to the right of the centre.
        orientation: Direction of the wave, in radians.
        frequency: Number of waves per pixel.
        log_width: Logarithm of the standard deviation of the bell, in pixels.
        phase: Phase of the wave, in radians.

    Returns:
        The value of the bell curve, the angle of the wave in radians, and the distance from the
        centre in the direction of the wave in pixels.
    """
    along = column * math.cos(orientation) + row * math.sin(orientation)
    bell = math.exp(-0.5 * (row * row + column * column) * math.exp(-2 * log_width))
    return bell, 2 * math.pi * frequency * along + phase, along


@cached_njit()
def forward(
    inputs: Any,
    amplitude: Any,
    orientation: Any,
    frequency: Any,
    log_width: Any,
    phase: Any,
    outputs: Any,
    bank: Any,
) -> None:
    """Compute the bank (the pixels of all filters), and convolve the inputs with the bank."""
    size, _, channels, filters = bank.shape
    for i in range(size):
        for j in range(size):
            for f in range(filters):
                bell, angle, _ = wave_and_bell(
                    i - size // 2,
                    j - size // 2,
                    orientation[f],
                    frequency[f],
                    log_width[f],
                    phase[f],
                )
                for c in range(channels):
                    bank[i, j, c, f] = amplitude[c, f] * bell * math.cos(angle)
    no_bias = np.empty(0, np.float32)
    conv2d_forward(inputs, bank, no_bias, (1, 1), True, (1, 1), 1, False, outputs)


@cached_njit()
def backward_inputs(inputs: Any, bank: Any, grad_outputs: Any, grad_inputs: Any) -> None:
    """Compute the gradient of the inputs from the bank, which the forward pass has computed."""
    one = (1, 1)
    conv2d_grad_inputs(
        inputs, bank, grad_outputs, one, True, one, 1, False, grad_outputs, grad_inputs
    )


@cached_njit()
def backward_parameters(
    inputs: Any,
    amplitude: Any,
    orientation: Any,
    frequency: Any,
    log_width: Any,
    phase: Any,
    bank: Any,
    grad_outputs: Any,
    grad_amplitude: Any,
    grad_orientation: Any,
    grad_frequency: Any,
    grad_log_width: Any,
    grad_phase: Any,
) -> None:
    """Compute the gradient of the bank, and from it the gradients of the five parameters."""
    size, _, channels, filters = bank.shape
    grad_bank, grad_bias = np.empty_like(bank), np.empty(filters, np.float32)
    one, no_bias = (1, 1), np.empty(0, np.float32)
    conv2d_grad_weights(
        inputs,
        bank,
        no_bias,
        grad_outputs,
        one,
        True,
        one,
        1,
        False,
        grad_outputs,
        grad_bank,
        grad_bias,
    )
    of_amplitude, of_orientation = np.zeros((channels, filters)), np.zeros(filters)
    of_frequency, of_log_width, of_phase = np.zeros(filters), np.zeros(filters), np.zeros(filters)
    for i in range(size):
        for j in range(size):
            row, column = i - size // 2, j - size // 2
            for f in range(filters):
                bell, angle, along = wave_and_bell(
                    row, column, orientation[f], frequency[f], log_width[f], phase[f]
                )
                upstream = 0.0
                for c in range(channels):
                    of_amplitude[c, f] += grad_bank[i, j, c, f] * bell * math.cos(angle)
                    upstream += grad_bank[i, j, c, f] * amplitude[c, f]
                across = row * math.cos(orientation[f]) - column * math.sin(orientation[f])
                of_angle = -upstream * bell * math.sin(angle)
                of_phase[f] += of_angle
                of_frequency[f] += of_angle * 2 * math.pi * along
                of_orientation[f] += of_angle * 2 * math.pi * frequency[f] * across
                squared = (row * row + column * column) * math.exp(-2 * log_width[f])
                of_log_width[f] += upstream * bell * math.cos(angle) * squared
    grad_amplitude[:], grad_orientation[:] = of_amplitude, of_orientation
    grad_frequency[:], grad_log_width[:], grad_phase[:] = of_frequency, of_log_width, of_phase


def output_shapes(
    inputs: tuple[int, ...], amplitude: tuple[int, ...], size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return two shapes: the shape of the outputs and the shape of the bank."""
    maps = (inputs[0], inputs[1], inputs[2], amplitude[1])
    return maps, (size, size, amplitude[0], amplitude[1])


gabor_conv2d = ArrayOp(
    "example_gabor_conv2d",
    forward=forward,
    backward=(backward_inputs, backward_parameters),
    inputs={
        "inputs": 4,
        "amplitude": 2,
        "orientation": 1,
        "frequency": 1,
        "log_width": 1,
        "phase": 1,
    },
    outputs={"outputs": 4, "bank": 4},
    output_shapes=output_shapes,
    attributes={"size": 7},
)
