"""Run the Python source of a tensor-core kernel on NumPy: a block in lockstep, threads as vectors.

The classes below replace ``cuda`` and ``ptx``. The index arithmetic, the pipeline and the epilogue
of the kernel run as written. The instructions follow NVIDIA's PTX ISA, with layouts that this file
defines independently of the kernels.

A run in lockstep has no race. So shared memory notes which thread accessed which word between which
barriers, and raises an error if a device could give a wrong result:

* a word is read while a copy to it is pending, or before a barrier that follows the wait for it;
* a copy starts to a word that was read since the last barrier, or that is still being copied;
* a word is read that was never written.

It also raises for bank conflicts, misaligned and out-of-range addresses, and results that are
written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnforge_kernels.cuda.codegen.jit import Kernel

LANES = 32
NEVER = -1
G, Q = np.arange(LANES) // 4, np.arange(LANES) % 4


class HazardError(Exception):
    """The kernel did something for which a device may give a wrong result."""


def require(condition: Any, message: str) -> None:
    if not np.all(condition):
        raise HazardError(message)


def warps(values: Any) -> NDArray:
    """Reshape (threads,) to (warps, 32)."""
    return values.reshape(-1, LANES)


class Memory:
    """Global memory of a pointer argument: flat float32, 16-byte aligned."""

    def __init__(self, values: NDArray) -> None:
        self.words = values.reshape(-1).view(np.uint32)
        self.written = np.zeros(self.words.size, bool)

    def check(self, offsets: NDArray, count: int) -> None:
        inside = (offsets.astype(np.int64) >= 0) & (offsets + count <= self.words.size)
        require(inside, f"address outside of {self.words.size} words: {offsets[~inside][:1]}")
        require(offsets % count == 0, f"address not aligned to {4 * count} bytes")

    def store(self, offsets: NDArray, values: NDArray, conditions: NDArray, count: int) -> None:
        places = offsets[conditions][:, None] + np.arange(count)
        self.check(offsets[conditions], count)
        require(np.unique(places).size == places.size, "two threads write one result")
        require(~self.written[places], "a result is written twice")
        self.written[places] = True
        self.words[places] = values[conditions].astype(np.float32).view(np.uint32)


class Shared:
    """Shared memory of a block, uint32 words."""

    def __init__(self, size: int, block: Block) -> None:
        self.words = np.full(size, 0x7FC0DEAD, np.uint32)
        self.flying = np.zeros(size, bool)
        self.landed = np.full(size, NEVER)
        self.read = np.full(size, NEVER)
        self.block = block

    def __getitem__(self, index: Any) -> NDArray:
        index = np.broadcast_to(index, self.block.threads)
        self.check_reads(index, 1, LANES)
        return self.load(index)

    def load(self, places: NDArray) -> NDArray:
        require(places < self.words.size, "read beyond shared memory")
        require(~self.flying[places], "a word is read while a copy to it is under way")
        require(self.landed[places] != NEVER, "a word is read that was never written")
        require(self.landed[places] < self.block.barriers, "no barrier between copy and read")
        self.read[places] = self.block.barriers
        return self.words[places]

    def start(self, places: NDArray) -> None:
        require(places < self.words.size, "copy beyond shared memory")
        require(np.unique(places).size == places.size, "two threads copy to one word")
        require(~self.flying[places], "a copy starts to a word that is being copied")
        require(self.read[places] < self.block.barriers, "no barrier between read and copy")
        self.flying[places] = True
        self.words[places] = 0x7FC0DEAD

    def store(self, places: NDArray, values: NDArray) -> None:
        """Store (threads, n) words, which other threads may read after the next barrier."""
        require(places < self.words.size, "write beyond shared memory")
        require(np.unique(places).size == places.size, "two threads write one word")
        require(~self.flying[places], "a word is written that is being copied")
        require(self.read[places] < self.block.barriers, "no barrier between read and write")
        self.words[places] = values
        self.landed[places] = self.block.barriers

    def check_reads(self, index: NDArray, count: int, together: int) -> None:
        if not self.block.conflicts:
            self.check_banks(index, count, together)

    def check_banks(self, index: NDArray, count: int, together: int) -> None:
        """Require that ``together`` lanes with ``count`` words each access different banks."""
        for group in index.reshape(-1, together):
            places = np.unique(group[:, None] + np.arange(count))
            require(np.unique(places % 32).size == places.size, "bank conflict")


class Block:
    """The ``cuda`` module that the kernel sees, for one block."""

    def __init__(
        self,
        x: int,
        y: int,
        z: int,
        threads: int = 128,
        dynamic: int = 0,
        conflicts: bool = False,
    ) -> None:
        self.threads, self.dynamic, self.conflicts = threads, dynamic, conflicts
        self.threadIdx = SimpleNamespace(x=np.arange(threads, dtype=np.uint32))
        self.blockIdx = SimpleNamespace(x=np.uint32(x), y=np.uint32(y), z=np.uint32(z))
        self.shared = SimpleNamespace(array=self._shared_array)
        self.local = SimpleNamespace(array=self._local_array)
        self.barriers = 0
        self.memory: Shared | None = None

    def _shared_array(self, size: int, dtype: Any, alignment: int) -> Shared:
        static = alignment == 16 and 0 < 4 * size <= 48 * 1024 and not self.dynamic
        dynamic = alignment == 128 and size == 0 and 0 < self.dynamic <= 99 * 1024
        require(dtype is np.uint32 and (static or dynamic), "shared array")
        self.memory = Shared(size or self.dynamic // 4, self)
        return self.memory

    def _local_array(self, shape: Any, dtype: Any) -> NDArray:
        shape = shape if isinstance(shape, tuple) else (shape,)
        return np.full((*shape, self.threads), 0x7FC0DEAD, np.uint32).view(dtype)

    def syncthreads(self) -> None:
        self.barriers += 1


class Instructions:
    """The ``ptx`` module that the kernel sees, for one block."""

    def __init__(self, counts: dict[str, int], threads: int = 128, conflicts: bool = False) -> None:
        self.threads, self.conflicts = threads, conflicts
        self.open: list[tuple] = []
        self.groups: list[list[tuple]] = []
        self.counts = counts

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def _copy(self, shared: Shared, index: Any, memory: Memory, offset: Any, read: Any, n: int):
        index, offset, read = (np.broadcast_to(v, self.threads) for v in (index, offset, read))
        memory.check(offset, n)
        require((read == 0) | (read == 4 * n), "a copy reads all or nothing")
        require(index % n == 0, "shared address not aligned")
        if n == 4:
            shared.check_banks(index, n, 8)
        places = index[:, None] + np.arange(n)
        shared.start(places)
        data = np.where(read[:, None] > 0, memory.words[offset[:, None] + np.arange(n)], 0)
        self.open.append((shared, places, data))
        self._count(f"copy_async_{4 * n}")

    def copy_async_16(self, *arguments: Any) -> None:
        self._copy(*arguments, 4)

    def copy_async_4(self, *arguments: Any) -> None:
        self._copy(*arguments, 1)

    def copy_async_commit(self) -> None:
        self.groups.append(self.open)
        self.open = []

    def copy_async_wait(self, pending: int) -> None:
        for group in self.groups[: max(len(self.groups) - pending, 0)]:
            for shared, places, data in group:
                shared.words[places] = data
                shared.flying[places] = False
                shared.landed[places] = shared.block.barriers
            group.clear()

    def load_matrices(self, shared: Shared, index: Any) -> list[NDArray]:
        self._count("load_matrices")
        rows = self._matrices(shared, index)
        return [rows[:, m, G, Q].reshape(self.threads) for m in range(4)]

    def load_matrices_turned(self, shared: Shared, index: Any) -> list[NDArray]:
        self._count("load_matrices_turned")
        # (warp, matrix, row, column) of 16 bits.
        halves = np.ascontiguousarray(self._matrices(shared, index)).view(np.uint16)
        low, high = halves[:, :, 2 * Q, G], halves[:, :, 2 * Q + 1, G]
        words = low.astype(np.uint32) | (high.astype(np.uint32) << np.uint32(16))
        return [words[:, m].reshape(self.threads) for m in range(4)]

    def load_shared(self, shared: Shared, index: Any) -> NDArray:
        return shared[index]

    def load2_shared(self, shared: Shared, index: Any) -> list[NDArray]:
        require(index % 2 == 0, "shared address not aligned")
        words = shared.load(np.broadcast_to(index, self.threads)[:, None] + np.arange(2))
        return [words[:, 0], words[:, 1]]

    def _matrices(self, shared: Shared, index: Any) -> NDArray:
        """(warp, matrix, row, word)."""
        index = np.broadcast_to(index, self.threads)
        require(index % 4 == 0, "ldmatrix row not aligned")
        shared.check_reads(index, 4, 8)
        return shared.load(index[:, None] + np.arange(4)).reshape(-1, 4, 8, 4)

    def mma_tf32(self, a0, a1, a2, a3, b0, b1, *c: NDArray) -> list[NDArray]:
        self._count("mma_tf32")
        count = self.threads // LANES
        a, b = np.zeros((count, 16, 8)), np.zeros((count, 8, 8))
        # The instruction ignores the 13 lowest bits.
        a[:, G, Q], a[:, G + 8, Q], a[:, G, Q + 4], a[:, G + 8, Q + 4] = (
            warps(as_float(v & np.uint32(0xFFFFE000))) for v in (a0, a1, a2, a3)
        )
        b[:, Q, G], b[:, Q + 4, G] = (warps(as_float(v & np.uint32(0xFFFFE000))) for v in (b0, b1))
        return self._sum(a, b, c)

    def mma_bfloat16(self, a0, a1, a2, a3, b0, b1, *c: NDArray) -> list[NDArray]:
        self._count("mma_bfloat16")
        count = self.threads // LANES
        a, b = np.zeros((count, 16, 16)), np.zeros((count, 16, 8))
        for k, part in enumerate(
            (lambda v: v << np.uint32(16), lambda v: v & np.uint32(0xFFFF0000))
        ):
            t = 2 * Q + k
            a[:, G, t], a[:, G + 8, t], a[:, G, t + 8], a[:, G + 8, t + 8] = (
                warps(as_float(part(v))) for v in (a0, a1, a2, a3)
            )
            b[:, t, G], b[:, t + 8, G] = (warps(as_float(part(v))) for v in (b0, b1))
        return self._sum(a, b, c)

    def _sum(self, a: NDArray, b: NDArray, c: Any) -> list[NDArray]:
        places = [(G, 2 * Q), (G, 2 * Q + 1), (G + 8, 2 * Q), (G + 8, 2 * Q + 1)]
        with np.errstate(invalid="ignore"):
            product = a @ b
        for value, (i, j) in zip(c, places, strict=True):
            product[:, i, j] += warps(value)
        return [product[:, i, j].reshape(self.threads).astype(np.float32) for i, j in places]

    def round_tf32(self, bits: NDArray) -> NDArray:
        return round_tf32(bits)

    def pack_bfloat16(self, low: NDArray, high: NDArray) -> NDArray:
        return (round_bfloat16(low) >> np.uint32(16)) | round_bfloat16(high)

    def as_float(self, bits: NDArray) -> NDArray:
        return as_float(bits)

    def opaque(self, bits: NDArray) -> NDArray:
        return bits

    def as_bits(self, values: NDArray) -> NDArray:
        return np.ascontiguousarray(values, np.float32).view(np.uint32)

    def where_positive(self, mask: NDArray, values: NDArray) -> NDArray:
        return np.where(as_float(mask) > 0, values, np.uint32(0))

    def load4_if(self, memory: Memory, index: Any, condition: Any) -> NDArray:
        index, condition = (np.broadcast_to(v, self.threads) for v in (index, condition))
        places = index[condition != 0]
        memory.check(places, 4)
        require(~memory.written, "memory is read that the kernel writes")
        values = np.zeros((4, self.threads), np.uint32)
        values[:, condition != 0] = memory.words[places[:, None] + np.arange(4)].T
        return values

    def store2_shared(self, shared: Shared, index: Any, *values: Any) -> None:
        self._store_shared(shared, index, values)

    def store4_shared(self, shared: Shared, index: Any, *values: Any) -> None:
        self._store_shared(shared, index, values)

    def _store_shared(self, shared: Shared, index: Any, values: Any) -> None:
        count = len(values)
        self._count(f"store{count}_shared")
        index = np.broadcast_to(index, self.threads)
        require(index % count == 0, "shared address not aligned")
        # A warp stores its words in pieces of 128 bytes.
        shared.check_banks(index, count, LANES // count)
        shared.store(index[:, None] + np.arange(count), np.stack(values, 1))

    def relu(self, values: NDArray) -> NDArray:
        return np.where(values < 0, np.float32(0), values)

    def load_if(self, memory: Memory, index: Any, condition: Any) -> NDArray:
        index, condition = (np.broadcast_to(v, self.threads) for v in (index, condition))
        memory.check(index[condition != 0], 1)
        values = np.zeros(self.threads, np.float32)
        values[condition != 0] = memory.words.view(np.float32)[index[condition != 0]]
        return values

    def store_if(self, memory: Memory, index: Any, value: Any, condition: Any) -> None:
        index, value, condition = (
            np.broadcast_to(v, self.threads) for v in (index, value, condition)
        )
        memory.store(index, value[:, None], condition != 0, 1)

    def store2_if(self, memory: Memory, index: Any, a: Any, b: Any, condition: Any) -> None:
        index, condition = (np.broadcast_to(v, self.threads) for v in (index, condition))
        memory.store(index, np.stack((a, b), 1), condition != 0, 2)


def as_float(bits: NDArray) -> NDArray:
    return np.ascontiguousarray(bits, np.uint32).view(np.float32)


def round_tf32(bits: NDArray) -> NDArray:
    """Round as ``cvt.rna``: to nearest, ties away from zero. NaN and infinity stay."""
    bits = np.asarray(bits, np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(bits & 0x7F800000 == 0x7F800000, bits, rounded)


def round_bfloat16(bits: NDArray) -> NDArray:
    """Round as ``cvt.rn``: to nearest, ties to even; the 16 bits are the upper half of a word."""
    bits = np.asarray(bits, np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    not_finite = (bits & np.uint32(0xFFFF0000)) | np.where(bits & 0x7FFFFF, 0x400000, 0)
    result = np.where(bits & 0x7F800000 == 0x7F800000, not_finite, rounded)
    return result.astype(np.uint32)


@contextmanager
def lockstep(*modules: ModuleType) -> Iterator[Callable[..., dict[str, int]]]:
    """Yield ``run(kernel, grid, *arrays_and_numbers)`` for the kernels of these modules.

    ``run`` returns how often each instruction was executed, where all warps together count once.
    With ``conflicts=True`` it accepts bank conflicts.
    """
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
        for module in modules:
            for name, value in vars(module).copy().items():
                if hasattr(value, "py_func"):
                    patch.setattr(module, name, value.py_func)

        def run(
            kernel: Kernel, grid: tuple[int, int, int], *arguments: Any, conflicts: bool = False
        ) -> dict[str, int]:
            counts: dict[str, int] = {}
            values = [
                Memory(value) if isinstance(value, np.ndarray) else np.uint32(value)
                for value in arguments
            ]
            require(len(values) == len(kernel.arguments), "number of arguments")
            for z, y, x in np.ndindex(grid[2], grid[1], grid[0]):
                block = Block(x, y, z, kernel.threads, kernel.dynamic_shared, conflicts)
                instructions = Instructions(counts, kernel.threads)
                for module in modules:
                    patch.setattr(module, "cuda", block, raising=False)
                    patch.setattr(module, "ptx", instructions, raising=False)
                kernel.function(*values)
                require(not any(instructions.groups), "copies are under way at the end")
                require(not instructions.open, "copies were never committed")
            return counts

        yield run
