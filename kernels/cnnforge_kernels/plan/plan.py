"""Run a program on kernels, for any number of images."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from cnnforge_kernels.cpu.prepared.arrays import aligned_empty
from cnnforge_kernels.plan.binding import Binding, Prepared
from cnnforge_kernels.plan.buffers import place
from cnnforge_kernels.plan.program import Program, filled

# The bindings that a plan keeps. Each is a list of kernel calls for one number of images.
_KEPT_BINDINGS = 8


class Plan:
    """A program that runs on kernels.

    Weights are packed once. Images run in blocks, which are small enough that the values between
    the steps stay in the cache. All methods can be called from several threads at the same time.
    The kernels then run one call after another.

    Args:
        program: The program. ``cnnforge_kernels.plan.read`` reads it from a file.
        block: Max number of images that run at a time, or ``None`` to choose it.

    Example:
        >>> import numpy as np
        >>> from cnnforge_kernels.plan import Plan, Program, Step
        >>> weights = {"weights": np.ones((4, 2), "f4"), "bias": np.zeros(2, "f4")}
        >>> steps = (
        ...     Step("input", (), "image", {"shape": [2, 2, 1]}),
        ...     Step("reshape", ("image",), "flat", {"shape": [4]}),
        ...     Step("dense", ("flat",), "sums", {}, weights),
        ... )
        >>> plan = Plan(Program(steps, "sums"))
        >>> plan.predict(np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1))
        array([[ 6.,  6.],
               [22., 22.]], dtype=float32)
    """

    def __init__(self, program: Program, block: int | None = None) -> None:
        self.program = program
        self._places = place(program)
        self.block = block or self._places.block
        self._prepared = Prepared(program)
        self._bindings: OrderedDict[tuple[int, str], Binding] = OrderedDict()
        self._memory: np.ndarray | None = None
        self._lock = threading.Lock()
        names = dict.fromkeys(program.output_names)
        self._output_shapes = [(name, program.shapes[name]) for name in names]
        self._image_shape = program.image_shape

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape (H, W, C) of an image."""
        return self._image_shape

    def predict(self, images: np.ndarray) -> Any:
        """Compute the outputs for images.

        Args:
            images: (N, H, W, C), uint8 or float32. N can be any number, also 0.

        Returns:
            The outputs in the structure of the model: a float32 array (N, ...), or a list or dict
            of such structures.

        Raises:
            ValueError: The images have another shape or dtype.
        """
        self._check(images)
        # The kernels read the images where they are.
        images = np.ascontiguousarray(images)
        count = len(images)
        results = {
            name: np.empty((count, *shape), np.float32) for name, shape in self._output_shapes
        }
        if count:
            # Blocks of equal sizes: a last block of few images would be slow.
            size = -(-count // -(-count // self.block))
            with self._lock:
                for begin in range(0, count, size):
                    self._run(images[begin : begin + size], begin, results)
        return filled(self.program.outputs, results)

    def _run(self, images: np.ndarray, begin: int, results: dict[str, np.ndarray]) -> None:
        """Compute the outputs of one block; the caller holds the lock."""
        count = len(images)
        binding = self._bound(count, images.dtype)
        binding.run(images)
        for name, result in results.items():
            result[begin : begin + count] = binding.values[name]

    def _check(self, images: Any) -> None:
        shape = self._image_shape
        if not isinstance(images, np.ndarray) or images.dtype not in (np.uint8, np.float32):
            got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise ValueError(f"images must be an array of uint8 or float32. Received: {got}")
        if images.shape[1:] != shape:
            sizes = ", ".join(map(str, shape))
            raise ValueError(f"images must have the shape (N, {sizes}). Received: {images.shape}")

    def _bound(self, count: int, dtype: np.dtype) -> Binding:
        """Return the binding for a number of images; the caller holds the lock."""
        key = (count, dtype.char)
        binding = self._bindings.get(key)
        if binding is None:
            if self._memory is None or len(self._memory) < count * self._places.size:
                # Bindings that were made for the smaller memory keep it until they are dropped.
                self._bindings.clear()
                self._memory = aligned_empty(count * self._places.size)
            binding = Binding(self._prepared, self._places, self._memory, count, dtype)
            self._bindings[key] = binding
            if len(self._bindings) > _KEPT_BINDINGS:
                self._bindings.popitem(last=False)
        else:
            self._bindings.move_to_end(key)
        return binding
