"""Compile a step (one function of an op), and lay out the argument block that is passed to it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher

from cnnforge.ops.compiling.call_wrapper import Argument, Result
from cnnforge.ops.compiling.entry import Entry, launch_threads, make_entry
from cnnforge.ops.definition.attributes import Attribute, decode_attributes
from cnnforge.ops.definition.definition import Definition, Step, parameters

ALIGNMENT = 64

_C = ctypes.CDLL(None)
for _name in ("pthread_mutex_init", "pthread_mutex_lock", "pthread_mutex_unlock"):
    getattr(_C, _name).restype = ctypes.c_int
_C.pthread_mutex_init.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_C.pthread_mutex_lock.argtypes = [ctypes.c_void_p]
_C.pthread_mutex_unlock.argtypes = [ctypes.c_void_p]
_mutex = ctypes.create_string_buffer(128)
_C.pthread_mutex_init(_mutex, None)


def lock_address() -> int:
    """Return the address of the mutex that every op holds while it runs; 0 if none is needed.

    Numba's `workqueue` threads abort the process if two threads use them at once. So with
    `workqueue` only one op runs at a time. This includes ops whose functions are serial, because a
    serial function may call a parallel one. With `omp` and `tbb` no mutex is needed.
    """
    return ctypes.addressof(_mutex) if launch_threads() == "workqueue" else 0


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold the mutex of `lock_address`, if it is needed."""
    address = lock_address()
    if address:
        _C.pthread_mutex_lock(address)
    try:
        yield
    finally:
        if address:
            _C.pthread_mutex_unlock(address)


def aligned_empty(shape: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return an uninitialised C-contiguous array that begins at a multiple of 64 bytes.

    TensorFlow uses such an array as a tensor without a copy. With another alignment, some of its
    ops abort the process.
    """
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


_PLAIN = aligned_empty
_GUARD = 64
_GUARD_BYTE = 0xA5


def _guarded_empty(shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return two arrays: an uninitialised one, and the bytes of its memory with guards around it.

    `Program.run` checks the guards, which are the first and the last bytes of the memory.
    """
    if aligned_empty is not _PLAIN:
        # `audit` has replaced `aligned_empty`, and checks its own guards around the array. So the
        # guards that are returned here are separate memory, which never changes.
        return aligned_empty(shape, dtype), np.full(2 * _GUARD, _GUARD_BYTE, np.uint8)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = aligned_empty((_GUARD + size + _GUARD,), np.dtype(np.uint8))
    memory[:_GUARD] = memory[_GUARD + size :] = _GUARD_BYTE
    return memory[_GUARD : _GUARD + size].view(dtype).reshape(shape), memory


class Program:
    """The machine code of a step, which is compiled on first use, and its argument block.

    Attributes:
        step: The step.
        attributes: The op's attributes. The block contains all of them, even if the step's function
            does not read them.
        offsets: Index of the first word of each array and each attribute in the block, by name.
        attribute_offset: Index of the first word of the first attribute.
        words: Number of words in the block.
    """

    def __init__(self, definition: Definition, step: Step) -> None:
        """Compute the position of each array and attribute in the block; compile nothing."""
        self.step = step
        self.attributes: tuple[Attribute, ...] = definition.attributes
        self.offsets: dict[str, int] = {}
        position = 0
        for array in (*step.reads, *step.writes):
            self.offsets[array.name] = position
            position += 1 + array.rank
        self.attribute_offset = position
        for attribute in definition.attributes:
            self.offsets[attribute.name] = position
            position += attribute.words
        self.words = position
        self._shape_rule = definition.shape_rule
        self._types: dict[str, types.Type] = {
            item.name: item.type for item in (*step.reads, *step.writes, *definition.attributes)
        }

    @cached_property
    def argument_types(self) -> tuple[types.Type, ...]:
        """The type of each parameter of the author's function."""
        return tuple(self._types[name] for name in parameters(self.step.function))

    def type_of(self, name: str) -> types.Type:
        """Return the type of an array or an attribute."""
        return self._types[name]

    @property
    def is_made(self) -> bool:
        """Whether `entry` has been compiled."""
        return "entry" in self.__dict__

    @cached_property
    def entry(self) -> Entry:
        """Entry (function over the argument block) of the author's function.

        Raises:
            ValueError: Numba cannot compile the function.
        """
        launch_threads()
        function = self.step.function
        arguments = [
            Argument(self._types[name], self.offsets[name]) for name in parameters(function)
        ]
        return make_entry(function, arguments, self.step.label)

    @cached_property
    def shape_entry(self) -> Entry | None:
        """Entry of the shape rule, which writes the output shapes to the block.

        It is `None` for a backward function, which has no shape rule.

        Raises:
            ValueError: Numba cannot compile the shape rule.
        """
        if not self.step.is_forward:
            return None
        rule = self._shape_rule
        if not hasattr(rule, "py_func"):
            # Keep the compiled rule on disk only if the forward function is kept there: then its
            # author has allowed it with `cache=True`.
            rule = numba.njit(cache=self.step.function.stats.cache_path is not None)(rule)
        arguments = []
        for name in parameters(rule):
            type_, offset = self._types[name], self.offsets[name]
            if isinstance(type_, types.Array):
                type_, offset = types.UniTuple(types.int64, type_.ndim), offset + 1
            arguments.append(Argument(type_, offset))
        results = [Result(item.rank, self.offsets[item.name] + 1) for item in self.step.writes]
        label = f"ArrayOp {self.step.op!r}: the shape rule {rule.__name__!r}"
        return make_entry(rule, arguments, label, results)

    def run(
        self,
        arrays: Sequence[np.ndarray[Any, Any]],
        shapes: Sequence[Sequence[int]],
        attribute_words: Sequence[int],
    ) -> list[np.ndarray[Any, Any]]:
        """Run the step on NumPy arrays, with the GIL released.

        Args:
            arrays: Arrays that the step reads; C-contiguous, of the declared types.
            shapes: The shape of each array that the step writes.
            attribute_words: The encoded attributes.

        Returns:
            The arrays that the step writes. Each begins at an address that is a multiple of 64.

        Raises:
            ValueError: The step wrote outside of an array. Most often the shape rule returns a
                shape that is too small.
        """
        entry = self.entry if self.is_compiled else None
        guarded = [
            _guarded_empty(shape, array.dtype)
            for shape, array in zip(shapes, self.step.writes, strict=True)
        ]
        outputs = [array for array, _ in guarded]
        block = self.block([*arrays, *outputs], attribute_words)
        if entry is None:
            self.run_python([*arrays, *outputs], attribute_words)
        else:
            with exclusive():
                entry(block.ctypes.data)
        for declared, (array, memory) in zip(self.step.writes, guarded, strict=True):
            if (memory[:_GUARD] != _GUARD_BYTE).any() or (memory[-_GUARD:] != _GUARD_BYTE).any():
                raise ValueError(self._overrun(declared.name, array.shape))
        return outputs

    @property
    def is_compiled(self) -> bool:
        """Whether the step is compiled; `NUMBA_DISABLE_JIT=1` leaves it a Python function."""
        return isinstance(self.step.function, Dispatcher)

    def run_python(
        self, arrays: Sequence[np.ndarray[Any, Any]], attribute_words: Sequence[int]
    ) -> None:
        """Run the function of a step that is not compiled; see `block` for the arguments."""
        known = decode_attributes(self.attributes, attribute_words)
        steps = (*self.step.reads, *self.step.writes)
        known |= {item.name: array for item, array in zip(steps, arrays, strict=True)}
        function: Any = self.step.function
        function(*(known[name] for name in parameters(function)))

    def block(
        self, arrays: Sequence[np.ndarray[Any, Any]], attribute_words: Sequence[int]
    ) -> np.ndarray[Any, Any]:
        """Return the argument block of a call.

        Args:
            arrays: The arrays that the step reads, then those that it writes.
            attribute_words: The encoded attributes.
        """
        block = np.zeros(self.words, np.int64)
        for declared, array in zip((*self.step.reads, *self.step.writes), arrays, strict=True):
            offset = self.offsets[declared.name]
            block[offset] = array.ctypes.data
            block[offset + 1 : offset + 1 + declared.rank] = array.shape
        block[self.attribute_offset :] = attribute_words
        return block

    def rule_note(self, shape: tuple[int, ...]) -> str:
        """Return the end of a message about an output: the shape that the shape rule gave."""
        if not self.step.is_forward:
            return ""
        rule = getattr(self._shape_rule, "__name__", "")
        return f"; the shape rule {rule!r} gave the shape {shape}"

    def _overrun(self, name: str, shape: tuple[int, ...]) -> str:
        of = "its input"
        if self.step.is_forward:
            of = f"the shape rule {getattr(self._shape_rule, '__name__', '')!r}"
        return (
            f"{self.step.label} writes beyond the end of {name!r}, which has the shape {shape} of "
            f"{of}: let the two agree; cnnforge plugins check NAME --boundscheck names the index"
        )
