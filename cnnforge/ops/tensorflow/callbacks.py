"""Python functions that TensorFlow calls, for ops that are registered through its C API.

The create callback makes the state of a node: the words that the compute callback reads
(`compute.py`). The fail callback reports an error of the compute callback.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnforge.ops.compiling.call_wrapper import take_exception
from cnnforge.ops.definition.definition import Step
from cnnforge.ops.definition.shapes import Shape
from cnnforge.ops.tensorflow import c_api as api
from cnnforge.ops.tensorflow.compute import (
    FUNCTION_RAISED,
    LAUNCH_FAILED,
    NEGATIVE_SHAPE,
    NO_STREAM,
    SHAPE_RULE_RAISED,
    WRONG_RANK,
    make_state,
)

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp

State = np.ndarray[Any, np.dtype[np.int64]]

# The op and the step of every op type that is registered with TensorFlow, by the name of the type.
# A type stays registered until the process ends, but its op can be replaced, for instance if a
# notebook cell runs twice.
steps: dict[str, tuple[ArrayOp, Step]] = {}
# The state of a node contains the index of its step in this list, for error messages.
_numbered: list[Step] = []
# The callbacks with which TensorFlow creates a kernel take this lock. Never hold it while calling
# TensorFlow: the call may wait for such a callback, which would be a deadlock.
_number_lock = threading.Lock()


def number_of(step: Step) -> int:
    """Return the index of a step in `_numbered`, and add the step if needed."""
    with _number_lock:
        if step not in _numbered:
            _numbered.append(step)
    return _numbered.index(step)


def step_of(number: int) -> Step:
    """Return the step that has an index in `_numbered`."""
    return _numbered[number]


def cpu_state(op: ArrayOp, step: Step, words: list[int], shapes: list[int]) -> State:
    """Make the state of a node that computes on the CPU.

    Args:
        op: The op.
        step: The function of the op that the node runs.
        words: The encoded attributes.
        shapes: The dimensions of all inputs of the op, one after the other, with -1 for an unknown
            dimension. The list is empty if the op has no `prepare`, or in eager mode.
    """
    if shapes:
        op.prepare(_decode_shapes(op, shapes), op.decode(words), gradient=not step.is_forward)
    program = op.program(step)
    return make_state(program, program.entry.address, words, FAIL, number_of(step))


def make_create(name: str, state_of: Callable[..., State]) -> Any:
    """Make the create callback of an op type. It runs once per node, and returns the node's state.

    Args:
        name: TensorFlow's name of the op type.
        state_of: Function that makes the state, such as `cpu_state`. The callback returns a copy of
            the state, which TensorFlow frees with `free`.
    """

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    def create(construction: int) -> int | None:
        try:
            op, step = steps[name]
            words = _int64_list(construction, b"attributes")
            state = state_of(op, step, words, _int64_list(construction, b"shapes"))
            address = api.malloc(state.nbytes)
            ctypes.memmove(address, state.ctypes.data, state.nbytes)
            return address
        except BaseException as error:
            status = api.new_status()
            message = f"{steps[name][1].label}: {type(error).__name__}: {error}"
            api.set_status(status, api.INVALID_ARGUMENT, message.encode())
            api.construction_failure(construction, status)
            api.delete_status(status)
            return None

    return create


def _int64_list(construction: int, name: bytes) -> list[int]:
    size, total = ctypes.c_int32(), ctypes.c_int32()
    status = api.new_status()
    api.get_attribute_size(construction, name, ctypes.byref(size), ctypes.byref(total), status)
    api.check(status)
    values = (ctypes.c_int64 * max(size.value, 1))()
    status = api.new_status()
    api.get_attribute_int64_list(construction, name, values, size.value, status)
    api.check(status)
    return list(values[: size.value])


@ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
def _fail(number: int, code: int, where: int, context: int) -> None:
    """Report an error of the compute callback, which calls Python code only for this purpose."""
    step = step_of(number)
    error = take_exception() if code in (SHAPE_RULE_RAISED, FUNCTION_RAISED) else None
    text = f"{type(error).__name__}: {error}" if error is not None else "no exception"
    if code == WRONG_RANK:
        item = step.reads[where]
        text = f"{item.name!r} has a wrong number of dimensions, expected {item.rank}"
    elif code == SHAPE_RULE_RAISED:
        text = f"the shape rule raised {text}"
    elif code == NEGATIVE_SHAPE:
        text = f"the shape rule gave {step.writes[where].name!r} a negative dimension"
    elif code == NO_STREAM:
        text = "TensorFlow computes on a device that has no CUDA stream"
    elif code == LAUNCH_FAILED:
        text = f"cuLaunchKernel returned the CUDA error {where}"
    else:
        text = f"raised {text}"
    report(context, f"{step.label}: {text}")


def report(context: int, message: str) -> None:
    """Report an error to TensorFlow. The op that runs in the kernel context then fails with it."""
    status = api.new_status()
    api.set_status(status, api.INVALID_ARGUMENT, message.encode())
    api.context_failure(context, status)
    api.delete_status(status)


FAIL = ctypes.cast(_fail, ctypes.c_void_p).value


def _decode_shapes(op: ArrayOp, words: Sequence[int]) -> list[Shape]:
    sizes = iter(words)
    return [
        tuple(None if size < 0 else size for size in itertools.islice(sizes, item.rank))
        for item in op.inputs
    ]
