"""Run functions of ops with a check of each index and each iteration of a parallel loop.

The functions are compiled again, with hooks (`instrument.py`). An index outside of its array is
noted, and the first element is used instead, so that no foreign memory is touched. The iterations
of a parallel loop run one after the other. Two iterations that use the same element, and at least
one writes it, are a race, however the threads would have run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np

from cnnforge.errors import one_line
from cnnforge.ops.audit import hooks, instrument, memory
from cnnforge.ops.audit.intercept import Call, Values
from cnnforge.ops.audit.sites import Site, sites
from cnnforge.ops.compiling.call_wrapper import Argument
from cnnforge.ops.compiling.entry import Entry, make_entry
from cnnforge.ops.compiling.program import Program
from cnnforge.ops.definition.definition import parameters

TIME_LIMIT = 60.0
# The text of `Trace.unchecked` under NUMBA_DISABLE_JIT=1.
NOT_COMPILED = "it is not compiled"
_STACK = 2 << 20
_lock = threading.Lock()
_entries: dict[Program, Entry | str] = {}


@dataclass(frozen=True)
class Trace:
    """The events of a run of a function; each text is "" if nothing happened.

    Attributes:
        outside: The first index outside of its array.
        race: The first element that two iterations of a parallel loop use.
        wrapped: The first negative index, which Numba counts from the end.
        unchecked: The reason why the function could not be compiled with hooks, and ran without;
            `NOT_COMPILED` if Numba compiles nothing.
    """

    outside: str = ""
    race: str = ""
    wrapped: str = ""
    unchecked: str = ""


def entry_of(program: Program) -> Entry | str:
    """Return the instrumented entry of a step, or why it cannot be compiled with hooks."""
    if program not in _entries:
        step = program.step
        if not instrument.can_copy(step.function):
            return "it belongs to cnnforge_kernels, which has tests of its own"
        names = parameters(step.function)
        arguments = [Argument(program.type_of(name), program.offsets[name]) for name in names]
        try:
            with instrument.compiling():
                made = make_entry(instrument.traced(step.function), arguments, step.label)
        except Exception as error:
            # It may not compile at all; then this raises the error that says why.
            _ = program.entry
            made = one_line(error)
        _entries[program] = made
    return _entries[program]


def trace(program: Program, entry: Entry, block: Values, arrays: dict[str, Values]) -> Trace:
    """Run the instrumented code of a step.

    Args:
        program: The program of the step.
        entry: The instrumented entry of the step.
        block: The argument block.
        arrays: The arrays that the step reads and writes, by name.

    Raises:
        TimeoutError: The function has not ended after `TIME_LIMIT` seconds of CPU time.
        RecursionError: The function calls itself without end.
        MemoryError: The function asks for more memory than is left.
        ValueError: The function has raised it: it refuses its inputs.
        RuntimeError: The function has raised another exception.
    """
    label = program.step.label
    with _lock:
        threads, chunk = numba.get_num_threads(), numba.get_parallel_chunksize()
        hooks.reset(_STACK)
        ended = threading.Event()
        threading.Thread(target=_watch, args=(ended,), daemon=True).start()
        try:
            numba.set_num_threads(1)
            numba.set_parallel_chunksize(1)
            entry(block.ctypes.data)
        except TimeoutError as error:
            if str(error) != instrument.TOO_LONG:
                raise
            raise TimeoutError(
                f"{label} has not ended after {TIME_LIMIT:g} s of CPU time on arrays of "
                f"{sum(it.size for it in arrays.values()):,} elements: look for a loop without end"
            ) from None
        except RecursionError as error:
            if str(error) != instrument.RECURSION:
                raise
            raise RecursionError(
                f"{label} calls itself without end (more than {_STACK >> 20} MB of stack)"
            ) from None
        except MemoryError as error:
            raise MemoryError(f"{label} asks for more memory than is left: {error}") from error
        except ValueError:
            raise
        except Exception as error:
            raise RuntimeError(f"{label} raises {type(error).__name__}: {error}") from error
        finally:
            ended.set()
            numba.set_parallel_chunksize(chunk)
            numba.set_num_threads(threads)
        return Trace(_outside(), _race(arrays), _wrapped())


def _watch(ended: threading.Event) -> None:
    """Stop the traced function once it has used too much time of the CPU, not of the clock."""
    begin = time.process_time()
    while not ended.wait(0.1):
        if time.process_time() - begin > TIME_LIMIT:
            hooks.stop()
            return


def _event(first: int) -> tuple[int, list[int]]:
    words = [int(word) for word in hooks.state[first : first + 8]]
    return words[0], words[1:]


def _outside() -> str:
    count, (number, index, size, axis, *_) = _event(hooks.OUTSIDE)
    if not count:
        return ""
    site = sites[number]
    return (
        f"index {index} is outside of axis {axis} of {site.name}, which has the size {size}, {site}"
        + _times(count)
    )


def _wrapped() -> str:
    count, (number, index, size, axis, *_) = _event(hooks.WRAPPED)
    if not count:
        return ""
    site = sites[number]
    return (
        f"the negative index {index} of axis {axis} of {site.name} means {size + index}, {site}"
        + _times(count)
    )


def _race(arrays: dict[str, Values]) -> str:
    count, (address, first, second, one, other, write, writer) = _event(hooks.RACE)
    if not count:
        return ""
    here: Site = sites[second]
    what = "written" if write and writer else "read and written"
    numbers = sorted({one & hooks.LOOP_VARIABLE, other & hooks.LOOP_VARIABLE})
    who = "different iterations"
    if one != hooks.SEVERAL and len(numbers) == 2:
        who = f"the iterations {numbers[0]} and {numbers[1]}"
    text = f"{_element(address, here, arrays)} is {what} by {who} of a parallel loop"
    text += f", a race: {here}"
    if sites[first].line != here.line:
        text += f" and {sites[first]}"
    return text + _times(count)


def _element(address: int, site: Site, arrays: dict[str, Values]) -> str:
    for name, array in arrays.items():
        place = address - array.ctypes.data
        if 0 <= place < array.nbytes:
            index = np.unravel_index(place // array.itemsize, array.shape)
            return f"{name}[{', '.join(str(int(number)) for number in index)}]"
    return f"an element of {site.name}"


def _times(count: int) -> str:
    return "" if count == 1 else f", {count:,} times"


def traced(found: dict[str, Trace], call: Call) -> list[Values]:
    """Run a call of an op's function with hooks, and note what happens in it.

    Args:
        found: The trace of each function, by its label; the first event of each kind is kept.
        call: The call.

    Returns:
        The arrays that the function writes.
    """
    program, step = call.program, call.program.step
    if not program.is_compiled:
        found.setdefault(step.label, Trace(unchecked=NOT_COMPILED))
        return call.run()
    mark = memory.mark_of(call)
    if mark is not None and mark.exists():
        found.setdefault(step.label, Trace())
        return call.run()
    entry = entry_of(program)
    if isinstance(entry, str):
        found.setdefault(step.label, Trace(unchecked=entry))
        return call.run()
    arrays = [_guarded(array.shape, array.dtype) for array in call.arrays]
    for array, given in zip(arrays, call.arrays, strict=True):
        array[...] = given
    outputs = [
        _guarded(shape, item.dtype) for shape, item in zip(call.shapes, step.writes, strict=True)
    ]
    both = [*arrays, *outputs]
    names = [item.name for item in (*step.reads, *step.writes)]
    block = program.block(both, call.words)
    seen = trace(program, entry, block, dict(zip(names, both, strict=True)))
    known = found.get(step.label, Trace())
    if seen == Trace():
        memory.remember(mark)
    for item, output in zip(step.writes, outputs, strict=True):
        if f"of {item.name!r}, which" in seen.outside:
            seen = replace(seen, outside=seen.outside + program.rule_note(output.shape))
    found[step.label] = Trace(
        known.outside or seen.outside, known.race or seen.race, known.wrapped or seen.wrapped
    )
    return outputs


def _guarded(shape: Sequence[int], dtype: np.dtype[Any]) -> Values:
    # If an array has no elements, its first element, which is used instead of one outside, is in
    # the memory after it.
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.zeros(size + 128, np.uint8)
    begin = -memory.ctypes.data % 64
    return memory[begin : begin + size].view(dtype).reshape(shape)
