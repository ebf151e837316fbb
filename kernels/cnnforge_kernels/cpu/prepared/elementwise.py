"""Steps of a network that compute each value from the values at the same place, in float32.

These are activations, a scale and an offset for each channel (which also converts images), and
sums, products and other combinations of several arrays. One pass over the arrays computes the step
and the activation that follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np
from numba import carray

from cnnforge_kernels.cpu.prepared.arrays import aligned_copy
from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.cpu.runtime.compiled import KERNEL_SIGNATURE, cached_cfunc, kernel_family
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.simd.activations import ACTIVATIONS, vector_activation
from cnnforge_kernels.cpu.simd.reductions import vector_larger, vector_of_indices, vector_smaller
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES
from cnnforge_kernels.cpu.simd.vectors import (
    index_load,
    load_float,
    vector_add,
    vector_load,
    vector_multiply,
    vector_multiply_add,
    vector_splat,
    vector_store,
    vector_subtract,
)

# Kinds of kernels. AFFINE_BYTES is AFFINE with a source of bytes.
_PLAIN, _AFFINE, _AFFINE_BYTES, _ADD, _SUBTRACT, _MULTIPLY, _MAXIMUM, _MINIMUM = range(8)
_COMBINATIONS = {
    "add": _ADD,
    "subtract": _SUBTRACT,
    "multiply": _MULTIPLY,
    "maximum": _MAXIMUM,
    "minimum": _MINIMUM,
    "average": _ADD,
}
_DEFAULT_ALPHA = {"leaky_relu": 0.2, "elu": 1.0}
# Fields of the argument block. The arrays are GROUPS of SIZE floats, and a group has PIECES of
# CHUNK floats. The kernel works on WIDE floats at a time. Addresses and steps are in bytes: the
# second array is at SECOND + group * SECOND_GROUP + index * SECOND_STEP. ALPHA is a float32.
_SOURCE, _SECOND, _OFFSET, _TARGET, _SIZE, _PIECES, _CHUNK, _WIDE = range(8)
_SECOND_GROUP, _SECOND_STEP, _ALPHA = range(8, 11)
_FIELDS = 11

_CHUNK_FLOATS = 16 * 1024
_PATTERN_FLOATS = 4096


@kernel_family(8 * len(ACTIVATIONS))
def _ELEMENTS(number: int) -> Any:
    KIND, ACTIVATION = number // len(ACTIVATIONS), number % len(ACTIVATIONS)
    L = MAX_LANES
    SOURCE_BYTES = 1 if KIND == _AFFINE_BYTES else 4

    @cached_cfunc(KERNEL_SIGNATURE)
    def _elements_kernel(args: Any, begin: int, end: int) -> None:
        a = carray(args, _FIELDS)
        alpha = load_float(address_of(a) + 8 * _ALPHA)
        none = vector_splat(np.float32(0), L)
        for task in range(begin, end):
            group = task // a[_PIECES]
            at = task % a[_PIECES] * a[_CHUNK]
            last = min(at + a[_CHUNK], a[_SIZE])
            before = group * a[_SIZE]
            while at < last:
                count = min(a[_WIDE], last - at)
                source = a[_SOURCE] + (before + at) * SOURCE_BYTES
                target = a[_TARGET] + 4 * (before + at)
                second = a[_SECOND] + group * a[_SECOND_GROUP] + at * a[_SECOND_STEP]
                for index in range(0, count, L):
                    valid = count - index
                    if KIND == _AFFINE_BYTES:
                        value = vector_of_indices(index_load(source + index, valid, 1, L), none)
                    else:
                        value = vector_load(source + 4 * index, valid, L)
                    if KIND != _PLAIN:
                        other = vector_load(second + 4 * index, valid, L)
                        if KIND == _ADD:
                            value = vector_add(value, other)
                        elif KIND == _SUBTRACT:
                            value = vector_subtract(value, other)
                        elif KIND == _MULTIPLY:
                            value = vector_multiply(value, other)
                        elif KIND == _MAXIMUM:
                            value = vector_larger(value, other)
                        elif KIND == _MINIMUM:
                            value = vector_smaller(value, other)
                        else:
                            offset = vector_load(a[_OFFSET] + 4 * index, valid, L)
                            value = vector_multiply_add(value, other, offset)
                    value = vector_activation(value, alpha, ACTIVATION)
                    vector_store(value, target + 4 * index, valid)
                at += count

    return _elements_kernel


def _activation_number(activation: str | None) -> int:
    if activation not in ACTIVATIONS:
        known = ", ".join(name for name in ACTIVATIONS if name)
        raise ValueError(f"`activation` must be None or one of {known}. Received: {activation!r}")
    return ACTIVATIONS.index(activation)


def _call(
    kind: int,
    activation: int,
    source: np.ndarray,
    target: np.ndarray,
    *,
    groups: int = 1,
    wide: int | None = None,
    second: tuple[int, int, int] = (0, 0, 0),
    offset: int = 0,
    alpha: float = 0.0,
    keeps: Any = (),
) -> list[Call]:
    """Return the call of one kernel; ``second`` is SECOND, SECOND_GROUP and SECOND_STEP."""
    if source.size != target.size:
        raise ValueError(f"the source has {source.size} values, the target has {target.size}")
    if target.size == 0:
        return []
    args = np.zeros(_FIELDS, np.int64)
    size = target.size // groups
    wide = wide or _CHUNK_FLOATS
    chunk = max(1, _CHUNK_FLOATS // wide) * wide
    args[_SOURCE], args[_TARGET], args[_OFFSET] = source.ctypes.data, target.ctypes.data, offset
    args[[_SECOND, _SECOND_GROUP, _SECOND_STEP]] = second
    args[_SIZE], args[_CHUNK], args[_WIDE] = size, chunk, wide
    args[_PIECES] = pieces = -(-size // chunk)
    args[_ALPHA : _ALPHA + 1].view(np.float32)[0] = alpha
    slot = _ELEMENTS + kind * len(ACTIVATIONS) + activation
    grain = max(1, _CHUNK_FLOATS // min(size, chunk))
    return [Call(slot, args, groups * pieces, grain, (source, target, keeps))]


class Activation:
    """An activation function.

    Args:
        name: Name of the function, one of ``ACTIVATIONS``.
        alpha: Slope of ``leaky_relu`` below 0 (0.2 by default), or factor of ``elu`` (1 by
            default).

    Raises:
        ValueError: There is no activation of this name.
    """

    def __init__(self, name: str | None, alpha: float | None = None) -> None:
        self._number = _activation_number(name)
        self._alpha = _DEFAULT_ALPHA.get(name or "", 0.0) if alpha is None else alpha

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write the activation of ``source`` to ``target``.

        Args:
            source: float32 array of any shape, C-contiguous.
            target: float32 array of as many values, C-contiguous; it may be ``source``.
        """
        return _call(_PLAIN, self._number, source, target, alpha=self._alpha)


class Affine:
    """A scale and an offset for each channel, and an activation.

    This step converts images too: the source may be uint8.

    Args:
        scale: (C,) float32, or (1,) for all channels.
        offset: (C,) float32, or (1,) for all channels.
        activation: Name of the activation that follows, or ``None``.
    """

    def __init__(self, scale: Any, offset: Any, activation: str | None = None) -> None:
        self._scale = np.asarray(scale, np.float32).reshape(-1)
        self._offset = np.asarray(offset, np.float32).reshape(-1)
        self._number = _activation_number(activation)
        self._alpha = _DEFAULT_ALPHA.get(activation or "", 0.0)
        self._patterns: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def bind(self, source: np.ndarray, target: np.ndarray) -> list[Call]:
        """Return the calls that write ``source * scale + offset`` to ``target``.

        Args:
            source: (..., C) float32 or uint8, C-contiguous.
            target: (..., C) float32, C-contiguous; it may be ``source``.
        """
        channels = target.shape[-1]
        for values in (self._scale, self._offset):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"a scale or offset has {len(values)} values, the target {channels} channels"
                )
        if channels not in self._patterns:
            # Several pixels, so that they fill whole vectors.
            pixels = MAX_LANES // gcd(channels, MAX_LANES)
            pixels = pixels if pixels * channels <= _PATTERN_FLOATS else 1
            if channels * pixels < 8 * MAX_LANES:
                pixels *= -(-8 * MAX_LANES // (channels * pixels))
            scale, offset = (
                aligned_copy(np.tile(np.broadcast_to(values, channels), pixels))
                for values in (self._scale, self._offset)
            )
            self._patterns[channels] = scale, offset
        scale, offset = self._patterns[channels]
        return _call(
            _AFFINE_BYTES if source.dtype == np.uint8 else _AFFINE,
            self._number,
            source,
            target,
            wide=len(scale),
            second=(scale.ctypes.data, 0, 0),
            offset=offset.ctypes.data,
            alpha=self._alpha,
            keeps=(scale, offset),
        )


class Combine:
    """A sum, product or another combination of arrays, and an activation.

    Args:
        kind: ``"add"``, ``"subtract"``, ``"multiply"``, ``"maximum"``, ``"minimum"`` or
            ``"average"``. The maximum and the minimum are NaN if one value is NaN.
        activation: Name of the activation that follows, or ``None``.
    """

    def __init__(self, kind: str, activation: str | None = None) -> None:
        if kind not in _COMBINATIONS:
            raise ValueError(f"`kind` must be one of {', '.join(_COMBINATIONS)}. Received: {kind}")
        self._kind, self._name = _COMBINATIONS[kind], kind
        self._number = _activation_number(activation)
        self._activation = activation

    def bind(self, sources: Sequence[np.ndarray], target: np.ndarray) -> list[Call]:
        """Return the calls that write the combination of ``sources`` to ``target``.

        Args:
            sources: float32 arrays of the shape of ``target``, C-contiguous. One may have a single
                pixel, (N, 1, 1, C) or (N, C), which then is combined with each pixel of its image.
                ``"subtract"`` takes two arrays, of which only the second may have a single pixel.
            target: float32 array, C-contiguous. It may be the first of ``sources``.

        Raises:
            ValueError: The shapes do not fit.
        """
        if self._name != "subtract":
            sources = sorted(sources, key=lambda source: source.size != target.size)
        elif len(sources) != 2:
            raise ValueError(f"subtract takes two arrays. Received: {len(sources)}")
        alpha = _DEFAULT_ALPHA.get(self._activation or "", 0.0)
        last = self._number
        average = self._name == "average" and len(sources) > 1
        if len(sources) == 1:
            return _call(_PLAIN, last, sources[0], target, alpha=alpha)
        calls = []
        first = sources[0]
        for index, other in enumerate(sources[1:], 2):
            number = last if index == len(sources) and not average else 0
            options: dict[str, Any] = {"second": (other.ctypes.data, 0, 4)}
            if other.size != target.size:
                images, channels = target.shape[0], target.shape[-1]
                if other.size != images * channels or other.shape[-1] != channels:
                    raise ValueError(f"shape {other.shape} does not fit {target.shape}")
                second = (other.ctypes.data, 4 * channels, 0)
                options = {"groups": images, "wide": channels, "second": second}
            calls += _call(self._kind, number, first, target, alpha=alpha, keeps=other, **options)
            first = target
        if average:
            share = Affine([1 / len(sources)], [0.0], self._activation)
            calls += share.bind(target, target)
        return calls
