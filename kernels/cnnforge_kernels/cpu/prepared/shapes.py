"""Steps of a network that move values: padding, cropping, concatenation and upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    cached_cfunc,
    cached_njit,
    kernel_family,
)
from cnnforge_kernels.cpu.runtime.memory import address_of, load_int64
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.vectors import (
    load_float,
    vector_load,
    vector_multiply_add,
    vector_splat,
    vector_store,
    vector_subtract,
)

Pair = tuple[int, int]
# Fields of the argument block of a copy. Target row r is source row r * ROW_STEP // ROW_REPEAT -
# TOP, or FILL (a float32) if there is no such row; columns likewise. A pixel has WIDE floats.
# Strides are in bytes.
_SOURCE, _SOURCE_IMAGE, _SOURCE_ROW, _SOURCE_PIXEL, _HEIGHT, _WIDTH = range(6)
_TARGET, _TARGET_PIXEL, _ROWS, _COLUMNS, _WIDE, _FILL = range(6, 12)
_ROW_STEP, _ROW_REPEAT, _TOP, _COLUMN_STEP, _COLUMN_REPEAT, _LEFT = range(12, 18)
_FIELDS = 18
# Fields of the argument block of bilinear upsampling. The tables have an int64 pair for each
# target row or column: the offsets, in bytes, of the two source rows or columns that it reads. The
# shares are float32: the share of the second one.
_UP_SOURCE, _UP_IMAGE, _UP_TARGET, _UP_ROWS, _UP_COLUMNS, _UP_WIDE = range(6)
_ROW_TABLE, _ROW_SHARES, _COLUMN_TABLE, _COLUMN_SHARES = range(6, 10)
_UP_FIELDS = 10

_GRAIN_FLOATS = 16 * 1024


@cached_njit()
def _copy(source: int, target: int, count: int) -> None:
    for index in range(0, count, MAX_LANES):
        value = vector_load(source + 4 * index, count - index, MAX_LANES)
        vector_store(value, target + 4 * index, count - index)


@cached_njit()
def _fill(value: float, target: int, count: int) -> None:
    vector = vector_splat(value, MAX_LANES)
    for index in range(0, count, MAX_LANES):
        vector_store(vector, target + 4 * index, count - index)


@kernel_family(1)
def _MOVE(_: int) -> Any:
    """Copy pixels; a task is a row of the target."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _move_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _FIELDS)
        wide, columns, width = a[_WIDE], a[_COLUMNS], a[_WIDTH]
        fill = load_float(address_of(a) + 8 * _FILL)
        dense = a[_SOURCE_PIXEL] == 4 * wide and a[_TARGET_PIXEL] == 4 * wide
        plain = dense and a[_COLUMN_STEP] == 1 and a[_COLUMN_REPEAT] == 1
        for task in range(begin, end):
            image, row = task // a[_ROWS], task % a[_ROWS]
            y = row * a[_ROW_STEP] // a[_ROW_REPEAT] - a[_TOP]
            target = a[_TARGET] + task * columns * a[_TARGET_PIXEL]
            source = a[_SOURCE] + image * a[_SOURCE_IMAGE] + y * a[_SOURCE_ROW]
            inside = 0 <= y < a[_HEIGHT]
            if plain:
                before = max(0, min(a[_LEFT], columns)) if inside else columns
                after = max(before, min(columns, width + a[_LEFT])) if inside else columns
                _fill(fill, target, before * wide)
                place = source + (before - a[_LEFT]) * 4 * wide
                _copy(place, target + before * 4 * wide, (after - before) * wide)
                _fill(fill, target + after * 4 * wide, (columns - after) * wide)
                continue
            for column in range(columns):
                x = column * a[_COLUMN_STEP] // a[_COLUMN_REPEAT] - a[_LEFT]
                place = target + column * a[_TARGET_PIXEL]
                if inside and 0 <= x < width:
                    _copy(source + x * a[_SOURCE_PIXEL], place, wide)
                else:
                    _fill(fill, place, wide)

    return _move_kernel


@cached_njit()
def _between(first: Any, second: Any, share: Any) -> Any:
    return vector_multiply_add(vector_subtract(second, first), share, first)


@kernel_family(1)
def _BILINEAR(_: int) -> Any:
    """Upsample by linear interpolation; a task is a row of the target."""
    L = MAX_LANES

    @cached_cfunc(KERNEL_SIGNATURE)
    def _bilinear_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _UP_FIELDS)
        wide, columns = a[_UP_WIDE], a[_UP_COLUMNS]
        for task in range(begin, end):
            image, row = task // a[_UP_ROWS], task % a[_UP_ROWS]
            source = a[_UP_SOURCE] + image * a[_UP_IMAGE]
            upper = source + load_int64(a[_ROW_TABLE] + 16 * row)
            lower = source + load_int64(a[_ROW_TABLE] + 16 * row + 8)
            down = vector_splat(load_float(a[_ROW_SHARES] + 4 * row), L)
            target = a[_UP_TARGET] + 4 * task * columns * wide
            for column in range(columns):
                left = load_int64(a[_COLUMN_TABLE] + 16 * column)
                right = load_int64(a[_COLUMN_TABLE] + 16 * column + 8)
                along = vector_splat(load_float(a[_COLUMN_SHARES] + 4 * column), L)
                for index in range(0, wide, L):
                    valid, place = wide - index, 4 * index
                    above = _between(
                        vector_load(upper + left + place, valid, L),
                        vector_load(upper + right + place, valid, L),
                        along,
                    )
                    below = _between(
                        vector_load(lower + left + place, valid, L),
                        vector_load(lower + right + place, valid, L),
                        along,
                    )
                    vector_store(_between(above, below, down), target + place, valid)
                target += 4 * wide

    return _bilinear_kernel


def _check(name: str, received: Any, expected: Any) -> None:
    if tuple(received) != tuple(expected):
        raise ValueError(f"the {name} has shape {tuple(received)}, but needs {tuple(expected)}")


def _move(
    source: np.ndarray,
    target: np.ndarray,
    *,
    place: int = 0,
    step: Pair = (1, 1),
    repeat: Pair = (1, 1),
    before: Pair = (0, 0),
    fill: float = 0.0,
) -> list[Call]:
    """Return the call of one copy; it begins at channel ``place`` of the target's pixels."""
    if target.size == 0 or source.shape[3] == 0:
        return []
    images, rows, columns, channels = target.shape
    _, height, width, wide = source.shape
    args = np.zeros(_FIELDS, np.int64)
    args[_SOURCE], args[_TARGET] = source.ctypes.data, target.ctypes.data + 4 * place
    args[_SOURCE_ROW], args[_SOURCE_IMAGE] = 4 * width * wide, 4 * height * width * wide
    args[_SOURCE_PIXEL], args[_TARGET_PIXEL] = 4 * wide, 4 * channels
    args[_HEIGHT], args[_WIDTH], args[_WIDE] = height, width, wide
    args[_ROWS], args[_COLUMNS] = rows, columns
    args[_FILL : _FILL + 1].view(np.float32)[0] = fill
    args[_ROW_STEP], args[_COLUMN_STEP] = step
    args[_ROW_REPEAT], args[_COLUMN_REPEAT] = repeat
    args[_TOP], args[_LEFT] = before
    grain = max(1, _GRAIN_FLOATS // (columns * wide))
    return [Call(_MOVE, args, images * rows, grain, (source, target))]


class Padding:
    """Rows and columns of a constant around each image.

    Args:
        padding: ((top, bottom), (left, right)), the numbers of rows and columns that are added.
        value: The constant.
    """

    def __init__(self, padding: tuple[Pair, Pair], value: float = 0.0) -> None:
        self._padding, self._value = padding, value

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write the padded images to ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous.
            target: (N, top + H + bottom, left + W + right, C) float32, C-contiguous.

        Raises:
            ValueError: The shapes do not fit.
        """
        (top, bottom), (left, right) = self._padding
        images, height, width, channels = source.shape
        expected = (images, top + height + bottom, left + width + right, channels)
        _check("target", target.shape, expected)
        return _move(source, target, before=(top, left), fill=self._value)


class Cropping:
    """Images without some rows and columns of their borders.

    Args:
        cropping: ((top, bottom), (left, right)), the numbers of rows and columns that are removed.
    """

    def __init__(self, cropping: tuple[Pair, Pair]) -> None:
        self._cropping = cropping

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write the cropped images to ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous.
            target: (N, H - top - bottom, W - left - right, C) float32, C-contiguous.

        Raises:
            ValueError: The shapes do not fit.
        """
        (top, bottom), (left, right) = self._cropping
        images, height, width, channels = source.shape
        expected = (images, height - top - bottom, width - left - right, channels)
        _check("target", target.shape, expected)
        return _move(source, target, before=(-top, -left))


class Subsampling:
    """Every n-th row and column of each image, beginning with the first.

    Args:
        strides: Distances of the rows and of the columns that remain.
    """

    def __init__(self, strides: Pair) -> None:
        self._strides = strides

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write the remaining pixels to ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous.
            target: (N, ceil(H / rows' stride), ceil(W / columns' stride), C) float32.

        Raises:
            ValueError: The shapes do not fit.
        """
        images, height, width, channels = source.shape
        rows, columns = -(-height // self._strides[0]), -(-width // self._strides[1])
        _check("target", target.shape, (images, rows, columns, channels))
        return _move(source, target, step=self._strides)


class Concatenation:
    """Several arrays, one after another along the last axis."""

    def bind(self, sources: Sequence[np.ndarray], target: np.ndarray) -> list[Call]:
        """Return the calls that write the concatenation of ``sources`` to ``target``.

        Args:
            sources: float32 arrays, C-contiguous; only their last axes may differ.
            target: float32 array, C-contiguous.

        Raises:
            ValueError: The shapes do not fit.
        """
        together = sum(source.shape[-1] for source in sources)
        calls, place = [], 0
        for source in sources:
            _check("target", target.shape, (*source.shape[:-1], together))
            columns = target.shape[-2] if target.ndim > 2 else 1
            rows = target.size // max(columns * together, 1)
            flat = source.reshape(1, rows, columns, source.shape[-1])
            calls += _move(flat, target.reshape(1, rows, columns, together), place=place)
            place += source.shape[-1]
        return calls


class Upsampling:
    """Images with several times as many rows and columns, as Keras' ``UpSampling2D`` makes them.

    Args:
        size: Factors of the numbers of rows and columns.
        interpolation: ``"nearest"`` or ``"bilinear"``.

    Raises:
        ValueError: There is no such interpolation.
    """

    def __init__(self, size: Pair, interpolation: str = "nearest") -> None:
        if interpolation not in ("nearest", "bilinear"):
            raise ValueError(
                f"`interpolation` must be 'nearest' or 'bilinear'. Received: {interpolation!r}"
            )
        self._size, self._bilinear = size, interpolation == "bilinear"

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write the larger images to ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous.
            target: (N, H * rows' factor, W * columns' factor, C) float32, C-contiguous.

        Raises:
            ValueError: The shapes do not fit.
        """
        images, height, width, channels = source.shape
        rows, columns = height * self._size[0], width * self._size[1]
        _check("target", target.shape, (images, rows, columns, channels))
        if not self._bilinear:
            return _move(source, target, repeat=self._size)
        if target.size == 0:
            return []
        row_table, row_shares = _weights(height, self._size[0], source.strides[1])
        column_table, column_shares = _weights(width, self._size[1], source.strides[2])
        args = np.zeros(_UP_FIELDS, np.int64)
        args[_UP_SOURCE], args[_UP_TARGET] = source.ctypes.data, target.ctypes.data
        args[_UP_IMAGE] = source.strides[0]
        args[_UP_ROWS], args[_UP_COLUMNS], args[_UP_WIDE] = rows, columns, channels
        args[_ROW_TABLE], args[_ROW_SHARES] = row_table.ctypes.data, row_shares.ctypes.data
        args[_COLUMN_TABLE] = column_table.ctypes.data
        args[_COLUMN_SHARES] = column_shares.ctypes.data
        keeps = (source, target, row_table, row_shares, column_table, column_shares)
        grain = max(1, _GRAIN_FLOATS // (2 * columns * channels))
        return [Call(_BILINEAR, args, images * rows, grain, keeps)]


def _weights(size: int, factor: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets of the two sources of each target along one axis, and the shares."""
    # TensorFlow rounds the same way. It matters for infinity, because infinity times a share of 0
    # is NaN. So the second source of such a target is the first one.
    scale = np.float32(size) / np.float32(size * factor)
    half = np.float32(0.5)
    places = (np.arange(size * factor, dtype=np.float32) + half) * scale - half
    first = np.floor(places)
    shares = (places - first).astype(np.float32)
    pair = np.stack([first, np.ceil(places)], 1).astype(np.int64)
    return np.clip(pair, 0, size - 1) * stride, shares
