"""A 1x1 convolution or a dense layer of a trained network, prepared once."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from cnnforge_kernels.cpu.conv import product as p
from cnnforge_kernels.cpu.prepared.arrays import aligned_zeros
from cnnforge_kernels.cpu.runtime.call_list import Call
from cnnforge_kernels.cpu.simd.epilogues import ACTIVATION_NUMBERS
from cnnforge_kernels.cpu.simd.tile_choice import tile_number


class Product:
    """The product ``activation(source @ weights + bias + added)``.

    Args:
        weights: (C, F) float32.
        bias: (F,) float32, or ``None``.
        activation: ``None``, ``"relu"`` or ``"relu6"``.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.cpu.prepared.product import Product
        >>> from cnnforge_kernels.cpu.runtime.call_list import CallList
        >>> layer = Product(np.array([[1], [-2]], np.float32), np.array([3], np.float32), "relu")
        >>> source, target = np.array([[1, 1], [1, 9]], np.float32), np.empty((2, 1), np.float32)
        >>> CallList(layer.bind(source, target))()
        >>> target
        array([[2.],
               [0.]], dtype=float32)
    """

    def __init__(
        self, weights: np.ndarray, bias: np.ndarray | None, activation: str | None
    ) -> None:
        self._channels, self._filters = weights.shape
        self._activation = ACTIVATION_NUMBERS[activation]
        self._vectors, self._lanes = p.product_width.py_func(self._filters)
        width = self._vectors * self._lanes
        blocks = -(-self._filters // width)
        self._weights = aligned_zeros((blocks, self._channels, width))
        self._bias = aligned_zeros((blocks * width,))
        whole = self._filters // width
        cut = whole * width
        blocked = weights[:, :cut].reshape(self._channels, whole, width)
        self._weights[:whole] = blocked.transpose(1, 0, 2)
        if cut < self._filters:
            self._weights[whole, :, : self._filters - cut] = weights[:, cut:]
        if bias is not None:
            self._bias[: self._filters] = bias

    def bind(
        self, source: np.ndarray, target: np.ndarray, added: np.ndarray | None = None
    ) -> list[Call]:
        """Return the calls that compute ``target`` from ``source``.

        Args:
            source: (P, C) float32, C-contiguous, as all arrays here.
            target: (P, F), written.
            added: (P, F), added before the activation, or ``None``. It may be ``target``.

        Raises:
            ValueError: The arrays do not have these shapes.
        """
        pixels = len(source)
        shape = (pixels, self._filters)
        if source.shape != (pixels, self._channels) or target.shape != shape:
            raise ValueError(
                f"a product of {self._channels} channels and {self._filters} filters got a source "
                f"{source.shape} and a target {target.shape}"
            )
        if added is not None and added.shape != shape:
            raise ValueError(f"the target is {shape}, but the added array is {added.shape}")
        args = np.zeros(p.FIELDS, np.int64)
        args[p.SOURCE], args[p.TARGET] = source.ctypes.data, target.ctypes.data
        args[p.ADDED] = 0 if added is None else added.ctypes.data
        args[p.SOURCE_PIXEL], args[p.TARGET_PIXEL] = 4 * self._channels, 4 * self._filters
        args[p.PIXELS], args[p.COUNT], args[p.FILTERS] = pixels, self._channels, self._filters
        args[p.WEIGHTS], args[p.BIAS] = self._weights.ctypes.data, self._bias.ctypes.data
        args[p.BLOCKS], args[p.ACTIVATION] = len(self._weights), self._activation
        positions = p.product_positions.py_func(max(pixels, 1), self._vectors)
        min_tasks = p.TASKS_EACH * numba.get_num_threads()
        width = self._vectors * self._lanes
        tasks = int(p.divide_product.py_func(args, positions, width, min_tasks))
        number = tile_number.py_func(positions, self._vectors, self._lanes, 1)
        keeps: tuple[Any, ...] = (source, target, added, self._weights, self._bias)
        return [Call(p.PRODUCT + number, args, tasks, int(args[p.GRAIN]), keeps)]
