"""2D convolution on the CPU: forward pass and gradients, float32, NHWC, HWIO weights.

Convolution is cross-correlation, as in every framework: the window is not flipped.
The functions here are compiled and check no arguments; the functions in ``launch`` check them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.conv import gather as g
from cnnforge_kernels.cpu.conv import sweep_rows as s
from cnnforge_kernels.cpu.conv.dense_gradients import dense_grad_weights
from cnnforge_kernels.cpu.conv.packing import pack_planes
from cnnforge_kernels.cpu.conv.product import multiply
from cnnforge_kernels.cpu.conv.product_weights import product_grad_weights
from cnnforge_kernels.cpu.conv.strided import pixels_read, spread_pixels
from cnnforge_kernels.cpu.conv.sweep import sweep
from cnnforge_kernels.cpu.conv.winograd.weights import gather_tiles
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.simd.epilogues import NO_ACTIVATION, RELU
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.geometry import padding_before

# Fields of the argument block of the gradient of the inputs. They follow the fields of a sweep
# (`sweep_rows.py`) and describe the convolution: the address and the sizes of the weights, the
# strides, the dilation, the padding, and the size of the inputs.
_WEIGHTS, _KH, _KW, _CHANNELS, _FILTERS = range(s.FIELDS, s.FIELDS + 5)
_STRIDES, _DILATION = s.FIELDS + 5, s.FIELDS + 7
_TOP, _LEFT, _HEIGHT, _WIDTH = range(s.FIELDS + 9, s.FIELDS + 13)
BACK_FIELDS = s.FIELDS + 13

# For a 1x1 convolution of images with up to this number of pixels, the kernel of a dense layer
# computes the gradient of the weights faster.
_DENSE_PIXELS = 256


@cached_njit()
def _fill_block(args: Any, source: Any, target: Any) -> None:
    """Set the fields of ``args`` that describe the arrays ``source`` and ``target``.

    Both arrays are (N, H, W, C).
    """
    args[s.SOURCE] = address_of(source)
    args[s.PIXEL_STRIDE] = 4 * source.shape[3]
    args[s.ROW_STRIDE] = args[s.PIXEL_STRIDE] * source.shape[2]
    args[s.IMAGE_STRIDE] = args[s.ROW_STRIDE] * source.shape[1]
    args[s.IMAGES] = source.shape[0]
    args[s.TARGET] = address_of(target)
    args[s.TARGET_COLUMN] = 4 * target.shape[3]
    args[s.TARGET_ROW] = args[s.TARGET_COLUMN] * target.shape[2]
    args[s.TARGET_IMAGE] = args[s.TARGET_ROW] * target.shape[1]
    args[s.ROW_STEP] = 1
    args[s.COLUMN_STEP] = 1


@cached_njit()
def convolve(
    args: Any,
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    outputs: Any,
) -> None:
    """Convolve ``inputs`` with ``weights`` by one sweep (``sweep.py``).

    The caller has set the fields ROWS and COLUMNS of the argument block ``args``, and the fields of
    the ReLU or of the pool.
    """
    kh, kw, channels, filters = weights.shape
    _fill_block(args, inputs, outputs)
    args[s.HEIGHT], args[s.WIDTH] = inputs.shape[1], inputs.shape[2]
    args[s.ROW_STEP], args[s.COLUMN_STEP] = strides
    top = padding_before(inputs.shape[1], kh, strides[0], dilation_rate[0], same)
    left = padding_before(inputs.shape[2], kw, strides[1], dilation_rate[1], same)
    row_taps = np.empty(kh * kw, np.int64)
    column_taps = np.empty(kh * kw, np.int64)
    for i in range(kh):
        for j in range(kw):
            row_taps[i * kw + j] = i * dilation_rate[0] - top
            column_taps[i * kw + j] = j * dilation_rate[1] - left
    factors = weights.reshape(kh * kw, channels, groups, filters // groups)
    sweep(args, row_taps, column_taps, factors, bias)


@kernel_family(1)
def _SWEEPS_BACK(_: int) -> Any:
    """Compute the gradient of the inputs by one sweep for each phase of the stride.

    Inputs whose row and column have the same remainders modulo the strides are a phase: the same
    taps read them. This is a kernel and not a function, so that it is compiled only if the gradient
    is needed.
    """

    @cached_cfunc(KERNEL_SIGNATURE)
    def _sweep_back(block: Any, _begin: int, _end: int) -> None:
        args = carray(block, BACK_FIELDS)
        kh, kw, channels, filters = args[_KH], args[_KW], args[_CHANNELS], args[_FILTERS]
        groups, top, left = args[s.GROUPS], args[_TOP], args[_LEFT]
        row_stride, column_stride = args[_STRIDES], args[_STRIDES + 1]
        row_dilation, column_dilation = args[_DILATION], args[_DILATION + 1]
        height, width = args[_HEIGHT], args[_WIDTH]
        target = args[s.TARGET]
        target_row, target_column = args[s.TARGET_ROW], args[s.TARGET_COLUMN]
        per_group = filters // groups
        # Variables, because Numba would compile the called functions again for literals.
        zero, one = np.int64(0), np.int64(1)
        row_taps = np.empty(kh * kw, np.int64)
        column_taps = np.empty(kh * kw, np.int64)
        # The weights with the axes (tap, filter of a group, group, channel), because this sweep
        # sums over filters.
        turned = np.empty((kh * kw, per_group, groups, channels), np.float32)
        for row_phase in range(min(row_stride, height)):
            for column_phase in range(min(column_stride, width)):
                taps = 0
                for i in range(kh):
                    row = row_phase + top - i * row_dilation
                    if row % row_stride != 0:
                        continue
                    # Go from the last tap to the first, so that the columns in column_taps
                    # increase. Only then can one step of the sweep multiply several neighbouring
                    # taps.
                    for j in range(kw - 1, -1, -1):
                        column = column_phase + left - j * column_dilation
                        if column % column_stride != 0:
                            continue
                        row_taps[taps] = row // row_stride
                        column_taps[taps] = column // column_stride
                        tap = args[_WEIGHTS] + 4 * (i * kw + j) * channels * filters
                        for group in range(groups):
                            pack_planes(
                                address_of(turned[taps, 0, group]),
                                4 * groups * channels,
                                one,
                                tap + 4 * group * per_group,
                                zero,
                                4 * filters,
                                zero,
                                zero,
                                channels,
                                per_group,
                            )
                        taps += 1
                args[s.TARGET] = target + row_phase * target_row + column_phase * target_column
                args[s.TARGET_ROW] = target_row * row_stride
                args[s.TARGET_COLUMN] = target_column * column_stride
                args[s.ROWS] = (height - row_phase + row_stride - 1) // row_stride
                args[s.COLUMNS] = (width - column_phase + column_stride - 1) // column_stride
                sweep(args, row_taps[:taps], column_taps[:taps], turned[:taps], turned[0, 0, 0, :0])

    return _sweep_back


@cached_njit()
def convolve_back(
    args: Any,
    weights: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    grad_outputs: Any,
    grad_inputs: Any,
) -> None:
    """Compute ``grad_inputs`` by one sweep over ``grad_outputs`` for each phase of the stride.

    The argument block ``args`` has BACK_FIELDS fields. The caller has set HEIGHT and WIDTH to the
    size of the convolution's outputs, and the fields of the ReLU's mask or of the pool.
    """
    _, height, width, _ = grad_inputs.shape
    _fill_block(args, grad_outputs, grad_inputs)
    args[_WEIGHTS], args[s.GROUPS] = address_of(weights), groups
    args[_KH], args[_KW], args[_CHANNELS], args[_FILTERS] = weights.shape
    args[_STRIDES], args[_STRIDES + 1] = strides
    args[_DILATION], args[_DILATION + 1] = dilation_rate
    args[_TOP] = padding_before(height, weights.shape[0], strides[0], dilation_rate[0], same)
    args[_LEFT] = padding_before(width, weights.shape[1], strides[1], dilation_rate[1], same)
    args[_HEIGHT], args[_WIDTH] = height, width
    call_once(_SWEEPS_BACK, args)


@cached_njit()
def gather_block(
    args: Any,
    inputs: Any,
    weights: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    rows: int,
    columns: int,
) -> None:
    """Set the argument block of the weight-gradient kernel (``gather.py``).

    The kernel reads ``inputs`` and a gradient of ``rows`` x ``columns`` pixels.
    """
    kh, kw, _, filters = weights.shape
    args[g.SOURCE] = address_of(inputs)
    args[g.IMAGES], args[g.HEIGHT], args[g.WIDTH], args[g.CHANNELS] = inputs.shape
    args[g.ROWS], args[g.COLUMNS], args[g.FILTERS] = rows, columns, filters
    args[g.GROUPS] = groups
    args[g.TAP_ROWS], args[g.TAP_COLUMNS] = kh, kw
    args[g.ROW_STEP], args[g.COLUMN_STEP] = strides
    args[g.ROW_DILATION], args[g.COLUMN_DILATION] = dilation_rate
    args[g.TOP] = padding_before(inputs.shape[1], kh, strides[0], dilation_rate[0], same)
    args[g.LEFT] = -padding_before(inputs.shape[2], kw, strides[1], dilation_rate[1], same)


@cached_njit()
def _is_product(weights: Any, groups: int, filters: int) -> bool:
    """Return whether to multiply pixels by one matrix, for results of ``filters`` filters.

    A sweep is faster if the filters fill half of a register or less.
    """
    one_tap = weights.shape[0] == 1 and weights.shape[1] == 1
    return one_tap and groups == 1 and 2 * filters > MAX_LANES


@cached_njit()
def _reads_all(strides: tuple[int, int]) -> bool:
    """Return whether a 1x1 convolution reads all pixels."""
    return strides[0] == 1 and strides[1] == 1


@cached_njit()
def conv2d_forward(
    inputs: Any,
    weights: Any,
    bias: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    relu: bool,
    outputs: Any,
) -> None:
    """Convolve ``inputs`` with ``weights``, add the bias, and apply a ReLU if ``relu``.

    Args:
        inputs: (N, H, W, C) float32, C-contiguous, as all arrays here.
        weights: (KH, KW, C / groups, F).
        bias: (F,); empty if there is no bias.
        strides: strides of rows and columns.
        same: whether the padding is SAME; else it is VALID.
        dilation_rate: dilation of rows and columns.
        groups: number of groups of channels.
        relu: whether a ReLU is applied.
        outputs: (N, OH, OW, F), written.
    """
    if outputs.size == 0:
        return
    if _is_product(weights, groups, weights.shape[3]) and inputs.size > 0:
        activation = np.int64(RELU if relu else NO_ACTIVATION)
        if _reads_all(strides):
            multiply(inputs, weights, False, bias, activation, outputs)
        else:
            read = pixels_read(inputs, strides, outputs.shape[1], outputs.shape[2])
            multiply(read, weights, False, bias, activation, outputs)
        return
    args = np.zeros(s.FIELDS, np.int64)
    args[s.ROWS], args[s.COLUMNS] = outputs.shape[1], outputs.shape[2]
    args[s.RELU] = 1 if relu else 0
    convolve(args, inputs, weights, bias, strides, same, dilation_rate, groups, outputs)


@cached_njit()
def conv2d_grad_inputs(
    inputs: Any,
    weights: Any,
    outputs: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    relu: bool,
    grad_outputs: Any,
    grad_inputs: Any,
) -> None:
    """Compute the gradient of ``inputs`` by one sweep for each phase of the stride.

    ``inputs`` is not read. ``outputs`` is read only if ``relu``, because a ReLU passes a gradient
    only if its output is positive.
    """
    if grad_inputs.size == 0:
        return
    unmasked = not relu and grad_outputs.size > 0
    if unmasked and _is_product(weights, groups, weights.shape[2]):
        no_bias, activation = weights[0, 0, 0, :0], np.int64(NO_ACTIVATION)
        if _reads_all(strides):
            multiply(grad_outputs, weights, True, no_bias, activation, grad_inputs)
        else:
            images, rows, columns, _ = grad_outputs.shape
            read = np.empty((images, rows, columns, weights.shape[2]), np.float32)
            multiply(grad_outputs, weights, True, no_bias, activation, read)
            spread_pixels(read, strides, grad_inputs)
        return
    args = np.zeros(BACK_FIELDS, np.int64)
    args[s.HEIGHT], args[s.WIDTH] = grad_outputs.shape[1], grad_outputs.shape[2]
    args[s.MASK] = address_of(outputs) if relu else 0
    convolve_back(args, weights, strides, same, dilation_rate, groups, grad_outputs, grad_inputs)


@cached_njit()
def conv2d_grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    outputs: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    relu: bool,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
) -> None:
    """Compute the gradients of ``weights`` and ``bias`` in one pass over inputs and gradient.

    Only the shape of ``weights`` is used, and ``bias`` is not read. ``outputs`` is read only if
    ``relu``, because a ReLU passes a gradient only if its output is positive.
    """
    if grad_outputs.size == 0 or grad_weights.size == 0:
        grad_weights[:] = np.float32(0)
        grad_bias[:] = np.float32(0)
        return
    if _is_product(weights, groups, weights.shape[3]) and not _reads_all(strides):
        read = pixels_read(inputs, strides, grad_outputs.shape[1], grad_outputs.shape[2])
        known = weights, bias, outputs, (1, 1), same, dilation_rate, groups, relu
        _grad_weights(read, *known, grad_outputs, grad_weights, grad_bias)
        return
    known = weights, bias, outputs, strides, same, dilation_rate, groups, relu
    _grad_weights(inputs, *known, grad_outputs, grad_weights, grad_bias)


@cached_njit()
def _grad_weights(
    inputs: Any,
    weights: Any,
    bias: Any,
    outputs: Any,
    strides: tuple[int, int],
    same: bool,
    dilation_rate: tuple[int, int],
    groups: int,
    relu: bool,
    grad_outputs: Any,
    grad_weights: Any,
    grad_bias: Any,
) -> None:
    """Compute what ``conv2d_grad_weights`` does, by the fastest kernel for the shapes."""
    pixels = grad_outputs.shape[1] * grad_outputs.shape[2]
    channels, filters = weights.shape[2], weights.shape[3]
    if pixels <= _DENSE_PIXELS and _is_product(weights, groups, filters) and _reads_all(strides):
        dense_grad_weights(
            inputs.reshape(-1, channels),
            grad_weights[0, 0],
            bias,
            outputs.reshape(-1, filters),
            relu,
            grad_outputs.reshape(-1, filters),
            grad_weights[0, 0],
            grad_bias,
        )
        return
    if pixels < g.MIN_PIXELS and weights.shape[0] == 1 and weights.shape[1] == 1 and groups == 1:
        # The gather would load and store all its sums once for each image.
        mask = address_of(outputs) if relu else np.int64(0)
        product_grad_weights(inputs, strides, mask, grad_outputs, grad_weights, grad_bias)
        return
    args = np.zeros(g.FIELDS, np.int64)
    _, rows, columns, _ = grad_outputs.shape
    gather_block(args, inputs, weights, strides, same, dilation_rate, groups, rows, columns)
    args[g.GRADIENT] = address_of(grad_outputs)
    args[g.MASK] = address_of(outputs) if relu else 0
    if not gather_tiles(args, grad_weights, grad_bias):
        g.gather(args, grad_weights, grad_bias)
