"""A convolution of a trained network, with bias, addition, activation and max pooling."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnnforge_kernels.cpu.conv import sweep as sw
from cnnforge_kernels.cpu.conv import sweep_rows as s
from cnnforge_kernels.cpu.conv import sweep_setup
from cnnforge_kernels.cpu.conv.winograd.forward_passes import MIN_LANES
from cnnforge_kernels.cpu.prepared.arrays import aligned_zeros
from cnnforge_kernels.cpu.prepared.product import Product
from cnnforge_kernels.cpu.prepared.winograd import Winograd, sweep_is_faster
from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.cpu.runtime.compiled import compile_kernel
from cnnforge_kernels.cpu.simd.epilogues import ACTIVATION_NUMBERS
from cnnforge_kernels.cpu.simd.tile_choice import MAX_LANES

_Pair = tuple[int, int]
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def _run(slot: int, args: NDArray[np.int64], tasks: int = 1) -> None:
    """Run all tasks of a kernel on this thread."""
    _KERNEL(compile_kernel(slot))(args.ctypes.data, 0, tasks)


class Convolution:
    """A convolution whose weights are packed once.

    Args:
        weights: (KH, KW, C / groups, F) float32, C-contiguous. It is kept and must not change.
        bias: (F,) float32, or ``None``.
        strides: Strides of rows and columns.
        padding: ((top, bottom), (left, right)), numbers of rows and columns of zeros around an
            image. They may differ.
        dilation: Dilation of rows and columns.
        groups: Number of groups of channels.
        activation: ``None``, ``"relu"`` or ``"relu6"``.
        pool: Window of a max pool after the activation, or ``None``. The strides of the pool equal
            its window, and its padding is VALID.

    Raises:
        ValueError: The weights do not fit ``bias`` or ``groups``, or the activation is unknown.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.cpu.prepared.convolution import Convolution
        >>> from cnnforge_kernels.cpu.runtime.call_list import CallList
        >>> layer = Convolution(np.ones((2, 2, 1, 1), np.float32), activation="relu")
        >>> source = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
        >>> target = np.empty(layer.output_shape(source.shape), np.float32)
        >>> CallList(layer.bind(source, target))()
        >>> target[0, :, :, 0]
        array([[ 8., 12.],
               [20., 24.]], dtype=float32)
    """

    def __init__(
        self,
        weights: NDArray[np.float32],
        bias: NDArray[np.float32] | None = None,
        *,
        strides: _Pair = (1, 1),
        padding: tuple[_Pair, _Pair] = ((0, 0), (0, 0)),
        dilation: _Pair = (1, 1),
        groups: int = 1,
        activation: str | None = None,
        pool: _Pair | None = None,
    ) -> None:
        if activation not in ACTIVATION_NUMBERS:
            raise ValueError(f"activation is {activation!r}, expected None, 'relu' or 'relu6'")
        filters = weights.shape[3]
        if filters % groups:
            raise ValueError(f"{filters} filters cannot be divided into {groups} groups")
        if bias is not None and bias.shape != (filters,):
            raise ValueError(f"bias has shape {bias.shape}, expected ({filters},)")
        self._weights = np.ascontiguousarray(weights, np.float32)
        self._bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
        self._strides, self._padding, self._dilation = strides, padding, dilation
        self._groups, self._activation, self._pool = groups, activation, pool
        taps = [
            (i * dilation[0] - padding[0][0], j * dilation[1] - padding[1][0])
            for i in range(weights.shape[0])
            for j in range(weights.shape[1])
        ]
        self._row_taps = np.array([row for row, _ in taps], np.int64)
        self._column_taps = np.array([column for _, column in taps], np.int64)
        self._product: Product | None = None
        self._winograd: Winograd | None = None
        # Packed weights and bias of the sweep, by the fields on which their layout depends.
        self._packed: dict[tuple[int, ...], tuple[NDArray, NDArray]] = {}

    def output_shape(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Return the shape of the target for a source of this shape.

        Args:
            shape: (N, H, W, C).

        Raises:
            ValueError: The number of channels does not fit the weights.
        """
        sizes = self._sizes(shape)
        pool = self._pool or (1, 1)
        return shape[0], sizes[0] // pool[0], sizes[1] // pool[1], self._weights.shape[3]

    def _sizes(self, shape: Sequence[int]) -> _Pair:
        """Return the numbers of rows and columns of the outputs before the pool."""
        channels = self._weights.shape[2] * self._groups
        if len(shape) != 4 or shape[3] != channels:
            raise ValueError(f"the source has shape {tuple(shape)}, expected {channels} channels")
        rows, columns = (
            max(
                (shape[1 + a] + sum(self._padding[a]) - (self._weights.shape[a] - 1) * d - 1) // t
                + 1,
                0,
            )
            for a, (d, t) in enumerate(zip(self._dilation, self._strides, strict=True))
        )
        return rows, columns

    def bind(
        self,
        source: NDArray[np.float32],
        target: NDArray[np.float32],
        added: NDArray[np.float32] | None = None,
    ) -> list[Call]:
        """Return the calls that compute ``target``.

        Args:
            source: (N, H, W, C) float32, C-contiguous, as all arrays here.
            target: (N, OH, OW, F), written. OH and OW are those of ``output_shape``.
            added: Array of the target's shape that is added before the activation, or ``None``. It
                must not share memory with ``target``.

        Returns:
            The calls, in order. They keep the arrays alive.

        Raises:
            ValueError: A shape does not fit, or there are both ``added`` and a pool.
        """
        shape = self.output_shape(source.shape)
        if target.shape != shape:
            raise ValueError(f"the target has shape {target.shape}, expected {shape}")
        if added is not None and added.shape != shape:
            raise ValueError(f"the added array has shape {added.shape}, expected {shape}")
        if added is not None and self._pool is not None:
            raise ValueError("an addition before a pool is not possible: use a pooling layer")
        if target.size == 0:
            return []
        if self._is_product() and self._strides == (1, 1):
            return self._bind_product(source, target, added)
        block = self._block(source, target, added)
        if self._winograd_fits(target):
            if self._winograd is None:
                self._winograd = Winograd(self._weights, self._bias)
            found = np.zeros(1, np.int64)
            before = self._padding[0][0], self._padding[1][0]
            activation, pooled = ACTIVATION_NUMBERS[self._activation], self._pool is not None
            calls = self._winograd.bind(
                source, target, added, before, self._sizes(source.shape), activation, pooled, found
            )
            # The launch of training packs the weights when it is called, which is rare.
            return [*calls, Call(sw.LAUNCH, *block[:1], 1, 1, block[1], only_if=found)]
        return [self._sweep(block)]

    def _is_product(self) -> bool:
        """Return whether an output is a product of one pixel and the weights."""
        plain = self._groups == 1 and self._pool is None
        return plain and self._weights.shape[:2] == (1, 1) and self._padding == ((0, 0), (0, 0))

    def _bind_product(self, source: NDArray, target: NDArray, added: NDArray | None) -> list[Call]:
        if self._product is None:
            self._product = Product(self._weights[0, 0], self._bias, self._activation)
        pixels, flat = source.size // source.shape[3], (-1, target.shape[3])
        return self._product.bind(
            source.reshape(pixels, -1),
            target.reshape(flat),
            None if added is None else added.reshape(flat),
        )

    def _winograd_fits(self, target: NDArray) -> bool:
        """Return whether Winograd's algorithm can compute the convolution, and is faster."""
        window, (channels, filters) = self._weights.shape[:2], self._weights.shape[2:]
        plain = window == (3, 3) and self._strides == self._dilation == (1, 1) and self._groups == 1
        whole = channels % MIN_LANES == 0 and filters > MAX_LANES // 2
        if not plain or not whole or self._pool not in (None, (2, 2)):
            return False
        pool = self._pool or (1, 1)
        outputs = (len(target), target.shape[1] * pool[0], target.shape[2] * pool[1], filters)
        return not sweep_is_faster(outputs, channels * filters)

    def _block(
        self, source: NDArray, target: NDArray, added: NDArray | None
    ) -> tuple[NDArray[np.int64], tuple]:
        """Return the argument block of the convolution, and what owns the memory in it."""
        args = np.zeros(s.FIELDS, np.int64)
        pool = self._pool or (1, 1)
        args[s.SOURCE], args[s.TARGET] = source.ctypes.data, target.ctypes.data
        args[[s.IMAGE_STRIDE, s.ROW_STRIDE, s.PIXEL_STRIDE]] = source.strides[:3]
        args[[s.TARGET_IMAGE, s.TARGET_ROW, s.TARGET_COLUMN]] = target.strides[:3]
        args[[s.IMAGES, s.HEIGHT, s.WIDTH]] = source.shape[:3]
        args[[s.ROW_STEP, s.COLUMN_STEP]] = self._strides
        if self._is_product():
            # Read only the pixels that are used, as if they were an image.
            args[[s.ROW_STRIDE, s.PIXEL_STRIDE]] *= self._strides
            args[[s.HEIGHT, s.WIDTH]] = target.shape[1:3]
            args[[s.ROW_STEP, s.COLUMN_STEP]] = 1
        args[s.ROWS], args[s.COLUMNS] = (target.shape[1 + a] * pool[a] for a in (0, 1))
        if self._pool is not None:
            args[[s.POOL_ROWS, s.POOL_COLUMNS]] = self._pool
        args[s.TAPS] = self._row_taps.size
        args[s.ROW_TAPS], args[s.COLUMN_TAPS] = (
            self._row_taps.ctypes.data,
            self._column_taps.ctypes.data,
        )
        args[s.CHANNELS], args[s.GROUPS] = self._weights.shape[2], self._groups
        args[s.FILTERS] = self._weights.shape[3] // self._groups
        args[s.FACTORS] = self._weights.ctypes.data
        args[s.BIAS_SOURCE] = 0 if self._bias is None else self._bias.ctypes.data
        args[s.RELU], args[s.INFERENCE] = ACTIVATION_NUMBERS[self._activation], 1
        args[s.ADDED] = 0 if added is None else added.ctypes.data
        keeps = (
            source,
            target,
            added,
            self._weights,
            self._bias,
            self._row_taps,
            self._column_taps,
        )
        return args, keeps

    def _sweep(self, block: tuple[NDArray[np.int64], tuple]) -> Call:
        """Return the call of a sweep, whose preparation is that of training."""
        args, keeps = block
        _run(sweep_setup.CHOOSE, args)
        offsets = np.empty(args[s.COUNT], np.int64)
        args[s.OFFSETS] = offsets.ctypes.data
        _run(sweep_setup.FILL_OFFSETS, args)
        layout = tuple(int(args[f]) for f in (s.TILE_FILTERS, s.TILE_FLOATS, s.WINDOW))
        new = layout not in self._packed
        if new:
            blocks = int(args[s.GROUPS] * args[s.FILTER_BLOCKS])
            self._packed[layout] = (
                aligned_zeros((blocks * int(args[s.BLOCK_BYTES]) // 4,)),
                aligned_zeros((blocks * int(args[s.TILE_FLOATS]),)),
            )
        weights, bias = self._packed[layout]
        args[s.WEIGHTS], args[s.BIAS] = weights.ctypes.data, bias.ctypes.data
        if new:
            _run(sweep_setup.PACK, args, int(args[s.GROUPS] * args[s.FILTER_BLOCKS]))
        args[s.TILE_KERNEL] = compile_kernel(int(args[s.TILE_KERNEL]))
        if args[s.POOL]:
            args[s.POOL] = compile_kernel(int(args[s.POOL]))
        tasks, grain = int(args[s.TASKS]), int(args[s.GRAIN])
        return Call(sw.SWEEP, args, tasks, grain, (keeps, offsets, weights, bias))
