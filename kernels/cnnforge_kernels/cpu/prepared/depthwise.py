"""Depthwise convolutions of a trained network."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.cpu.depthwise import sweep as s
from cnnforge_kernels.cpu.depthwise.sweep_setup import ZERO_FLOATS, prepare_sweep
from cnnforge_kernels.cpu.prepared.arrays import aligned_copy
from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.cpu.simd.epilogues import ACTIVATION_NUMBERS

Pair = tuple[int, int]
_CACHE_BYTES = 8 * 1024 * 1024


class DepthwiseConvolution:
    """A depthwise convolution: each channel is convolved with its own weights.

    Args:
        weights: (KH, KW, C, M) float32. Output channel c * M + m is the convolution of channel c
            with ``weights[:, :, c, m]``.
        bias: (C * M,) float32, or ``None``.
        strides: Strides of rows and columns.
        padding: ((top, bottom), (left, right)), the numbers of rows and columns of zeros around an
            image.
        dilation: Dilation of rows and columns.
        activation: ``None``, ``"relu"`` or ``"relu6"``.

    Raises:
        ValueError: There is no such activation.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.cpu.prepared.depthwise import DepthwiseConvolution
        >>> from cnnforge_kernels.cpu.runtime.call_list import CallList
        >>> layer = DepthwiseConvolution(np.ones((1, 2, 1, 1), np.float32), None)
        >>> source = np.array([1, 2, 4], np.float32).reshape(1, 1, 3, 1)
        >>> target = np.empty((1, 1, 2, 1), np.float32)
        >>> CallList(layer.bind(source, target))()
        >>> target.reshape(-1)
        array([3., 6.], dtype=float32)
    """

    def __init__(
        self,
        weights: np.ndarray,
        bias: np.ndarray | None,
        *,
        strides: Pair = (1, 1),
        padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
        dilation: Pair = (1, 1),
        activation: str | None = None,
    ) -> None:
        if activation not in ACTIVATION_NUMBERS:
            raise ValueError(
                f"`activation` must be None, 'relu' or 'relu6'. Received: {activation!r}"
            )
        self._weights = aligned_copy(weights)
        wide = weights.shape[2] * weights.shape[3]
        self._bias = aligned_copy(np.zeros(wide) if bias is None else bias)
        self._zeros = aligned_copy(np.zeros(ZERO_FLOATS))
        self._strides, self._padding, self._dilation = strides, padding, dilation
        self._activation = ACTIVATION_NUMBERS[activation]

    @property
    def channels(self) -> Pair:
        """The numbers of channels of the source and of the target."""
        return self._weights.shape[2], len(self._bias)

    def bind(
        self, source: np.ndarray, target: np.ndarray, cached: bool | None = None
    ) -> list[Call]:
        """Return the calls that write the convolution of ``source`` to ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous.
            target: (N, OH, OW, C * M) float32, C-contiguous.
            cached: Whether the source is in a cache of the processor; by default, whether both
                arrays are small.

        Raises:
            ValueError: The shapes do not fit.
        """
        *window, channels, multiplier = self._weights.shape
        images = len(source)
        sizes = [
            max((source.shape[1 + a] + sum(self._padding[a]) - self._reach(a)) // step + 1, 0)
            for a, step in enumerate(self._strides)
        ]
        expected = (images, *sizes, channels * multiplier)
        if source.shape[3] != channels or target.shape != expected:
            raise ValueError(
                f"a depthwise convolution of {channels} channels got a source {source.shape} and a "
                f"target {target.shape}, which must be {expected}"
            )
        if target.size == 0:
            return []
        args = np.zeros(s.FIELDS, np.int64)
        table = np.empty((window[0] * window[1], 2), np.int64)
        args[s.SOURCE], args[s.TARGET] = source.ctypes.data, target.ctypes.data
        args[s.IMAGES], args[s.HEIGHT], args[s.WIDTH] = source.shape[:3]
        args[s.WIDE], args[s.REPEAT], args[s.SUMMED] = channels * multiplier, multiplier, 1
        args[s.TAP_ROWS], args[s.TAP_COLUMNS] = window
        args[s.ROW_STEP], args[s.COLUMN_STEP] = self._strides
        args[s.ROW_DILATION], args[s.COLUMN_DILATION] = self._dilation
        args[s.ROW_ORIGIN], args[s.COLUMN_ORIGIN] = (-around[0] for around in self._padding)
        args[s.TABLE], args[s.WEIGHTS] = table.ctypes.data, self._weights.ctypes.data
        args[s.BIAS], args[s.RELU] = self._bias.ctypes.data, self._activation
        args[s.ROWS], args[s.COLUMNS] = sizes
        args[s.TARGET_COLUMN] = pixel = 4 * channels * multiplier
        args[s.TARGET_ROW], args[s.TARGET_IMAGE] = pixel * sizes[1], pixel * sizes[0] * sizes[1]
        args[s.ZEROS] = self._zeros.ctypes.data
        if cached is None:
            cached = source.nbytes + target.nbytes <= _CACHE_BYTES
        slot, tasks, grain = prepare_sweep(args, table, 0, window[1], 1, cached)
        keeps: tuple[Any, ...] = (source, target, table, self._weights, self._bias, self._zeros)
        return [Call(int(slot), args, int(tasks), int(grain), keeps)]

    def _reach(self, axis: int) -> int:
        return (self._weights.shape[axis] - 1) * self._dilation[axis] + 1
