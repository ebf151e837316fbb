"""Run a function of an op with guards around its arrays.

Before each of two runs, the outputs and some memory around them are filled with a pattern of bytes,
which differs between the two runs. Afterwards the memory around the outputs must still hold the
pattern, and the inputs must equal copies that were made before the runs. If an output element holds
the pattern after both runs, the function has never written it. (The first pattern is a NaN in float
types, so a float to which the function only adds is also found.) In a third run only the memory
around the inputs differs: if the results differ too, the function reads what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np

from cnnforge.ops.audit.intercept import Call, Values

Inspection = Callable[[Call], tuple[list[Values], list[str]]]

# In the first pattern all bits are set. In every float type this is a NaN, but its bits differ from
# those of a NaN that arithmetic on numbers gives. So a NaN result is not taken for the pattern.
_PATTERNS = (0xFF, 0x5A)
_GUARD = 256


def run(call: Call) -> tuple[list[Values], list[str]]:
    """Run a function, and return what it writes, and one sentence for each fault."""
    step, faults = call.program.step, []
    before = [array.copy() for array in call.arrays]
    inputs = [_guarded(array, _PATTERNS[0]) for array in call.arrays]
    results: list[list[Values]] = []
    for pattern in _PATTERNS:
        found, memories = _filled(call, inputs, pattern)
        results.append(found)
        for item, array, memory in zip(step.writes, found, memories, strict=True):
            begin = array.ctypes.data - memory.ctypes.data
            front, back = memory[:begin], memory[begin + array.nbytes :]
            where = [
                name
                for name, part in (("before", front), ("after", back))
                if (part != pattern).any()
            ]
            if where:
                _note(
                    faults,
                    f"{step.label} writes outside of {item.name!r}, {array.shape}: "
                    f"{' and '.join(where)} the array{call.program.rule_note(array.shape)}",
                )
    for item, array, copy in zip(step.reads, inputs, before, strict=True):
        changed = _bytes(array) != _bytes(copy)
        if changed.any():
            where, count = _first(changed.any(-1))
            faults.append(
                f"{step.label} modified {item.name!r}, which it may only read: {count} of "
                f"{array.size} elements, first at {where}"
            )
            array[...] = copy
    for item, *pair in zip(step.writes, *results, strict=True):
        untouched = (_bytes(pair[0]) == _PATTERNS[0]).all(-1)
        if not item.is_float:
            # A result may equal the first pattern by chance. It is the same in both runs, so it
            # cannot also equal the second pattern.
            untouched &= (_bytes(pair[1]) == _PATTERNS[1]).all(-1)
        if untouched.any():
            where, count = _first(untouched)
            faults.append(
                f"{count} of {pair[0].size} elements of {item.name!r} were never written (or added "
                f"to before they were set), first at {where}: {step.label}"
                + call.program.rule_note(pair[0].shape)
            )
    if not faults:
        faults += _reads_outside(call, before, results[0])
    return results[-1], faults


def _reads_outside(call: Call, arrays: Sequence[Values], results: Sequence[Values]) -> list[str]:
    step = call.program.step
    for number, item in enumerate(step.reads):
        inputs = [_guarded(array, _PATTERNS[place == number]) for place, array in enumerate(arrays)]
        found, _ = _filled(call, inputs, _PATTERNS[0])
        if _same(found, results):
            continue
        again, _ = _filled(call, inputs, _PATTERNS[0])
        if _same(found, again):
            return [
                f"{step.label} reads outside of {item.name!r}, {arrays[number].shape}: its results "
                "depend on what lies before or after the array"
            ]
    return []


def _same(one: Sequence[Values], other: Sequence[Values]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def _guarded(array: Values, pattern: int) -> Values:
    """Return a copy of an array between two guards."""
    found, _ = _memory(array.shape, array.dtype, pattern)
    found[...] = array
    return found


def _memory(shape: Sequence[int], dtype: np.dtype[Any], pattern: int) -> tuple[Values, Values]:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.full(size + 2 * _GUARD + 64, pattern, np.uint8)
    begin = _GUARD + -(memory.ctypes.data + _GUARD) % 64
    return memory[begin : begin + size].view(dtype).reshape(shape), memory


def _filled(
    call: Call, inputs: Sequence[Values], pattern: int
) -> tuple[list[Values], list[Values]]:
    """Run a function with outputs that hold a pattern, and return them and their memory."""
    memories: list[Values] = []

    def filled(shape: Sequence[int], dtype: np.dtype[Any]) -> Values:
        array, memory = _memory(shape, dtype, pattern)
        memories.append(memory)
        return array

    with mock.patch("cnnforge.ops.compiling.program.aligned_empty", filled):
        return call.run(inputs), memories


def _bytes(array: Values) -> Values:
    """Return the bytes of an array, (*shape, bytes per element) uint8."""
    flat = np.ascontiguousarray(array).reshape(array.shape)
    return (
        flat.view(np.uint8).reshape(*array.shape, array.dtype.itemsize)
        if array.ndim
        else (flat.reshape(1).view(np.uint8))
    )


def _first(mask: Values) -> tuple[tuple[int, ...], int]:
    return tuple(int(i) for i in np.argwhere(mask)[0]), int(mask.sum())


def _note(faults: list[str], fault: str) -> None:
    if fault not in faults:
        faults.append(fault)
