"""Functions that instrumented code calls at each index, array access and parallel iteration.

They are native code, because instrumented code runs without the GIL. They keep what they find in
two arrays of this module, which `traces.py` reads. Only one traced function runs at a time.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import carray, types

# Indices into `state`.
STOP, STACK_TOP, STACK_SIZE, EPOCH, IN_REGION, ITERATION, USED = range(7)
# Each of these is the first of several words: a count, and a description of the first event.
OUTSIDE, WRAPPED, RACE = 8, 16, 24
WORDS = 40
# A slot of the table describes the accesses to one address in the current parallel loop.
ADDRESS, AGE, WRITER, WRITER_SITE, READER, READER_SITE, FIELDS = range(7)
SLOTS = 1 << 17
# Two different iterations have read the element.
SEVERAL = -1
# The number of an iteration is a count in the high bits, and its loop variable in the low bits.
SHIFT = 24
LOOP_VARIABLE = (1 << SHIFT) - 1

state = np.zeros(WORDS, np.int64)
table = np.zeros(SLOTS * FIELDS, np.int64)

_Pointer = types.CPointer(types.int64)
_Integer = types.int64


def _index(words: Any, index: Any, given: Any, size: Any, axis: Any, site: Any) -> Any:
    found = carray(words, WORDS)
    event = WRAPPED
    inside = 0 <= index < size
    if not inside:
        event = OUTSIDE
    elif given >= 0:
        return index
    if found[event] == 0:
        found[event + 1] = site
        found[event + 2] = given
        found[event + 3] = size
        found[event + 4] = axis
    found[event] += 1
    return index if inside else 0


def _access(words: Any, slots: Any, address: Any, write: Any, site: Any) -> Any:
    found = carray(words, WORDS)
    if found[IN_REGION] == 0 or found[USED] > SLOTS // 2:
        return found[STOP]
    known = carray(slots, SLOTS * FIELDS)
    place = (address >> 2) * 2654435761 % SLOTS
    while True:
        slot = place * FIELDS
        if known[slot + ADDRESS] == address or known[slot + ADDRESS] == 0:
            break
        place = (place + 1) % SLOTS
    if known[slot + AGE] != found[EPOCH]:
        if known[slot + ADDRESS] == 0:
            found[USED] += 1
        known[slot + ADDRESS] = address
        known[slot + AGE] = found[EPOCH]
        known[slot + WRITER] = 0
        known[slot + READER] = 0
    mine = found[ITERATION]
    writer, reader = known[slot + WRITER], known[slot + READER]
    other, other_site = 0, 0
    if writer != 0 and writer != mine:
        other, other_site = writer, known[slot + WRITER_SITE]
    elif write and reader != 0 and reader != mine:
        other, other_site = reader, known[slot + READER_SITE]
    if other != 0:
        if found[RACE] == 0:
            found[RACE + 1] = address
            found[RACE + 2] = other_site
            found[RACE + 3] = site
            found[RACE + 4] = other
            found[RACE + 5] = mine
            found[RACE + 6] = write
            found[RACE + 7] = writer
        found[RACE] += 1
    if write:
        known[slot + WRITER] = mine
        known[slot + WRITER_SITE] = site
    elif reader == 0:
        known[slot + READER] = mine
        known[slot + READER_SITE] = site
    elif reader != mine:
        known[slot + READER] = SEVERAL
    return found[STOP]


def _again(words: Any) -> Any:
    return carray(words, WORDS)[STOP]


def _iteration(words: Any, number: Any) -> Any:
    found = carray(words, WORDS)
    count = (found[ITERATION] >> SHIFT) + 1
    found[ITERATION] = (count << SHIFT) | (number & LOOP_VARIABLE)
    return 0


def _region(words: Any, begin: Any) -> Any:
    found = carray(words, WORDS)
    found[IN_REGION] = begin
    found[EPOCH] += 1
    found[ITERATION] = 0
    return 0


def _forget(words: Any, slots: Any, address: Any, size: Any, step: Any) -> Any:
    # New memory may have been used by another iteration before that has freed it.
    found = carray(words, WORDS)
    if found[IN_REGION] == 0:
        return 0
    known = carray(slots, SLOTS * FIELDS)
    for offset in range(0, size, step):
        place = ((address + offset) >> 2) * 2654435761 % SLOTS
        while known[place * FIELDS + ADDRESS] != 0:
            if known[place * FIELDS + ADDRESS] == address + offset:
                known[place * FIELDS + AGE] = 0
                break
            place = (place + 1) % SLOTS
    return 0


def _enter(words: Any, address: Any) -> Any:
    found = carray(words, WORDS)
    if found[STACK_TOP] == 0:
        found[STACK_TOP] = address
    # Another thread has another stack, far from this one.
    depth = found[STACK_TOP] - address
    if found[STACK_SIZE] < depth < 4 * found[STACK_SIZE]:
        return 1
    return 0


_SIGNATURES = {
    _index: (_Pointer, *[_Integer] * 5),
    _access: (_Pointer, _Pointer, *[_Integer] * 3),
    _again: (_Pointer,),
    _iteration: (_Pointer, _Integer),
    _region: (_Pointer, _Integer),
    _forget: (_Pointer, _Pointer, *[_Integer] * 3),
    _enter: (_Pointer, _Integer),
}


@cache
def addresses() -> dict[str, Any]:
    """Compile the hooks, and return their addresses: index, access, again, iteration, ..."""
    return {
        hook.__name__.strip("_"): numba.cfunc(_Integer(*signature), cache=True)(hook).address
        for hook, signature in _SIGNATURES.items()
    }


def reset(stack_size: int) -> None:
    """Forget all events, before a traced function runs.

    Args:
        stack_size: Number of bytes of the stack that the function may use.
    """
    state[:] = 0
    state[STACK_SIZE] = stack_size
    table[:] = 0


def stop() -> None:
    """Make the traced function that is running raise an error at its next access or iteration."""
    ctypes.c_int64.from_address(state.ctypes.data).value = 1
