"""Copy rows of an NHWC array to scratch memory, so that kernels need no padding or masks.

``pack_planes`` writes a row with the axes (channel, phase, column). With a stride of s, column w
belongs to phase w % s, so that neighbouring outputs always read neighbouring floats.
``pack_pixels`` writes a row with the axes (column, channel), as in the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge_kernels.cpu.runtime.compiled import cached_njit
from cnnforge_kernels.cpu.simd.vectors import (
    load_float,
    store_float,
    vector_load,
    vector_store,
    vector_where_positive,
)

_BLOCK = 8


@intrinsic
def _transpose_block(
    typingctx: Any, target: Any, target_stride: Any, source: Any, source_stride: Any, mask: Any
) -> Any:
    """Transpose a block of 8x8 floats from ``source`` to ``target``.

    Both are addresses. The strides are in bytes. If ``mask`` is not 0, it is the address of the
    same block of a ReLU's outputs, and values whose output is not positive become zero.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, target_stride, source, source_stride, mask = args
        kind = ir.VectorType(ir.FloatType(), _BLOCK)
        pointer = kind.as_pointer()

        def at(base: Any, stride: Any, index: int) -> Any:
            offset = builder.mul(stride, ir.Constant(ir.IntType(64), index))
            return builder.inttoptr(builder.add(base, offset), pointer)

        rows = [builder.load(at(source, source_stride, i), align=4) for i in range(_BLOCK)]
        before = builder.block
        with builder.if_then(builder.icmp_signed("!=", mask, ir.Constant(mask.type, 0))):
            zero = ir.Constant(kind, [0.0] * _BLOCK)
            masked = []
            for i, row in enumerate(rows):
                gate = builder.load(at(mask, source_stride, i), align=4)
                masked.append(builder.select(builder.fcmp_ordered(">", gate, zero), row, zero))
            inside = builder.block
        merged = []
        for row, other in zip(rows, masked, strict=True):
            phi = builder.phi(kind)
            phi.add_incoming(row, before)
            phi.add_incoming(other, inside)
            merged.append(phi)
        # Interleave the first four rows with the last four, three times: this transposes the block.
        low = ir.Constant(
            ir.VectorType(ir.IntType(32), 8), [v for i in range(4) for v in (i, i + 8)]
        )
        high = ir.Constant(
            ir.VectorType(ir.IntType(32), 8), [v for i in range(4, 8) for v in (i, i + 8)]
        )
        for _ in range(3):
            mixed = []
            for i in range(4):
                mixed.append(builder.shuffle_vector(merged[i], merged[i + 4], low))
                mixed.append(builder.shuffle_vector(merged[i], merged[i + 4], high))
            merged = mixed
        for i, row in enumerate(merged):
            builder.store(row, at(target, target_stride, i), align=4)
        return context.get_dummy_value()

    integer = types.int64
    return types.void(integer, integer, integer, integer, integer), codegen


@cached_njit(inline="never")
def _fill_scalar(
    target: int,
    plane: int,
    phases: int,
    source: int,
    mask: int,
    pixel: int,
    shift: int,
    first: int,
    last: int,
    first_channel: int,
    channels: int,
) -> None:
    for c in range(first_channel, channels):
        # Increment phase and place in the loop: a division for every value would take most of the
        # time.
        phase, place = (first + shift) % phases, (first + shift) // phases
        for w in range(first, last):
            value = load_float(source + w * pixel + 4 * c)
            if mask != 0 and not load_float(mask + w * pixel + 4 * c) > 0:
                value = np.float32(0)
            store_float(target + (c * phases + phase) * plane + 4 * place, value)
            phase += 1
            if phase == phases:
                phase = 0
                place += 1


@cached_njit(inline="never")
def _copy_row(target: int, source: int, mask: int, count: int) -> None:
    """Copy ``count`` neighbouring floats.

    If ``mask`` is not 0, it is the address of as many floats, and values whose mask is not positive
    become zero.
    """
    for start in range(0, count, 8):
        value = vector_load(source + 4 * start, count - start, 8)
        if mask != 0:
            value = vector_where_positive(vector_load(mask + 4 * start, count - start, 8), value)
        vector_store(value, target + 4 * start, count - start)


@cached_njit(inline="never")
def copy_floats(target: int, source: int, count: int) -> None:
    """Copy ``count`` floats from one address to another."""
    whole = count - count % 16
    for start in range(0, whole, 16):
        vector_store(vector_load(source + 4 * start, 16, 16), target + 4 * start, 16)
    for index in range(whole, count):
        store_float(target + 4 * index, load_float(source + 4 * index))


@cached_njit(inline="never")
def pack_planes(
    target: int,
    plane: int,
    phases: int,
    source: int,
    mask: int,
    pixel: int,
    shift: int,
    first: int,
    last: int,
    channels: int,
) -> None:
    """Copy columns ``first`` to ``last - 1`` of one row into one plane for each channel.

    If the stride is more than 1, each channel has one plane for each phase.

    Args:
        target: address of the planes (channel, phase, column). Only copied columns are written, so
            the caller sets the padding to zero.
        plane: number of bytes from one plane to the next.
        phases: column stride s of the convolution.
        source: address of column 0 of the row, at the first channel of the group.
        mask: address of the same row in the ReLU's outputs, or 0. If it is not 0, values whose
            output is not positive become zero.
        pixel: number of bytes from one column to the next in the source.
        shift: number that is added to a column index: column w goes to place ``(w + shift) // s``
            of phase ``(w + shift) % s``.
        first: first column that is copied.
        last: column after the last that is copied.
        channels: number of channels.
    """
    whole = channels - channels % 8
    if channels == 1 and pixel == 4 and phases == 1:
        gate = mask + 4 * first if mask != 0 else 0
        _copy_row(target + 4 * (first + shift), source + 4 * first, gate, last - first)
        return
    if phases > 1 or last - first < 8 or whole == 0:
        _fill_scalar(target, plane, phases, source, mask, pixel, shift, first, last, 0, channels)
        return
    for c in range(0, whole, 8):
        w = first
        while w < last:
            # Let the last block end at the last column. It may overlap the block before it, so that
            # some columns are written twice, with the same values.
            w = min(w, last - 8)
            gate = mask + w * pixel + 4 * c if mask != 0 else 0
            _transpose_block(
                target + c * plane + 4 * (w + shift), plane, source + w * pixel + 4 * c, pixel, gate
            )
            w += 8
    if whole < channels:
        _fill_scalar(
            target, plane, phases, source, mask, pixel, shift, first, last, whole, channels
        )


@cached_njit(inline="never")
def pack_pixels(
    target: int,
    target_pixel: int,
    source: int,
    mask: int,
    pixel: int,
    columns: int,
    channels: int,
) -> None:
    """Copy ``columns`` neighbouring pixels of ``channels`` floats each.

    ``target_pixel`` and ``pixel`` are the numbers of bytes from a pixel to the next in the target
    and in the source. If ``mask`` is not 0, it is the address of the same pixels of a ReLU's
    outputs, and values whose output is not positive become zero.
    """
    if target_pixel == pixel and pixel == 4 * channels:
        _copy_row(target, source, mask, columns * channels)
    elif channels < 4:
        for c in range(channels):
            for w in range(columns):
                place = w * pixel + 4 * c
                value = load_float(source + place)
                if mask != 0 and not load_float(mask + place) > 0:
                    value = np.float32(0)
                store_float(target + w * target_pixel + 4 * c, value)
    else:
        for w in range(columns):
            gate = mask + w * pixel if mask != 0 else 0
            _copy_row(target + w * target_pixel, source + w * pixel, gate, channels)
