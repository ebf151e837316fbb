"""Find functions of ops that use memory which is not theirs, leave gaps, or have races.

This is slow, and meant for tests. Within each of these contexts all ops run on NumPy arrays, also
those that otherwise run through TensorFlow's C API or on torch tensors:

* `audit` runs each function several times, with guards around its arrays (`guards.py`);
* `tracing` runs code that checks each index and each parallel iteration (`traces.py`);
* `compare_threads` runs each function many times, with one thread and with several
  (`repetition.py`);
* `only_shapes` runs no function, and returns zeros of the shapes that the shape rules give;
* `recording` notes the calls, with the arrays that were read and written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from cnnforge.ops.audit import guards, repetition
from cnnforge.ops.audit.intercept import Call, Values, intercept
from cnnforge.ops.audit.traces import NOT_COMPILED as NOT_COMPILED
from cnnforge.ops.audit.traces import Trace, traced


@dataclass
class Audit:
    """The result of an audit.

    Attributes:
        functions: The labels of the functions that ran.
        faults: One sentence for each fault that was found.
    """

    functions: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def note(self, faults: Sequence[str]) -> None:
        """Add the faults that are not known yet."""
        self.faults += [fault for fault in faults if fault not in self.faults]


@contextmanager
def audit() -> Iterator[Audit]:
    """Check with guards every op that is called eagerly within the context.

    Yields:
        The result. Each call of an op adds to it.
    """
    found = Audit()
    with intercept(partial(_audited, found, guards.run)):
        yield found


@contextmanager
def compare_threads() -> Iterator[Audit]:
    """Run every op that is called eagerly within the context many times, and compare the results.

    Yields:
        The result. Each call of an op adds to it.
    """
    found = Audit()
    with intercept(partial(_audited, found, repetition.run)):
        yield found


@contextmanager
def tracing() -> Iterator[dict[str, Trace]]:
    """Check each index and each parallel iteration of ops that are called within the context.

    Yields:
        What happened in each function, by the label of the function. A function is missing if it
        cannot be compiled with these checks.
    """
    found: dict[str, Trace] = {}
    with intercept(partial(traced, found)):
        yield found


@contextmanager
def only_shapes() -> Iterator[None]:
    """Run no function of an op within the context; the results of ops are zeros."""
    with intercept(_zeros):
        yield


@contextmanager
def recording() -> Iterator[list[tuple[Call, list[Values]]]]:
    """Note every call of a function of an op within the context.

    Yields:
        The calls in their order, each with the arrays that it wrote.
    """
    found: list[tuple[Call, list[Values]]] = []

    def noted(call: Call) -> list[Values]:
        outputs = call.run()
        kept = replace(call, arrays=[np.array(array) for array in call.arrays])
        found.append((kept, [np.array(array) for array in outputs]))
        return outputs

    with intercept(noted):
        yield found


def _zeros(call: Call) -> list[Values]:
    step = call.program.step
    return [np.zeros(s, it.dtype) for s, it in zip(call.shapes, step.writes, strict=True)]


def _audited(found: Audit, run: guards.Inspection, call: Call) -> list[Values]:
    found.functions.add(call.program.step.label)
    results, faults = run(call)
    found.note(faults)
    return results
