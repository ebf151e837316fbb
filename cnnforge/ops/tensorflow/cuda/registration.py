"""Register CUDA implementations of ops with TensorFlow, and keep their recipes.

Experimental: not yet run on a device.

A recipe is the list of kernel launches for one combination of shapes, attributes and device
(`recipe.py`).
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cnnforge.ops.cuda_module import record
from cnnforge.ops.definition.attributes import decode_attributes
from cnnforge.ops.definition.definition import Step
from cnnforge.ops.tensorflow.callbacks import FAIL, State, number_of, report, step_of
from cnnforge.ops.tensorflow.compute import make_state
from cnnforge.ops.tensorflow.cuda.compute import compute_on_cuda, publish
from cnnforge.ops.tensorflow.cuda.recipe import make_cuda_state, make_recipe

if TYPE_CHECKING:
    from cnnforge.ops.array_op import ArrayOp

_lock = threading.RLock()
_ops: dict[Step, ArrayOp] = {}
# Arrays of one word, by step and attributes: the address of the first recipe of a list. Recipes are
# never removed, because a thread may be reading them. A recipe needs at most a kilobyte.
_first: dict[tuple[Step, tuple[int, ...]], State] = {}
_recipes: dict[tuple[int, ...], State] = {}


@dataclass(frozen=True)
class CudaKernels:
    """Addresses of the functions that TensorFlow calls to compute ops on a kind of device.

    Attributes:
        kind: TensorFlow's name of the kind of device, "GPU".
        stream: Address of `int32 stream(TF_OpKernelContext *, int64 found[2])`.
        launch: Address of `cuLaunchKernel`.
    """

    kind: str
    stream: int
    launch: int

    @property
    def address(self) -> int:
        """Address of the compute callback."""
        return int(compute_on_cuda.address or 0)

    def state_of(self, op: ArrayOp, step: Step, words: list[int], shapes: list[int]) -> State:
        """Make the state of a node on a CUDA device; the arguments are those of `cpu_state`."""
        with _lock:
            _ops[step] = op
            first = _first.setdefault((step, tuple(words)), np.zeros(1, np.int64))
        state = make_state(op.laid_out(step), 0, words, FAIL, number_of(step))
        return make_cuda_state(first.ctypes.data, _PLAN, self.stream, self.launch, state)


@ctypes.CFUNCTYPE(
    ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
)
def _plan(number: int, first: int, block: int, key: int, context: int) -> int:
    """Return the address of the recipe for the tensors in an argument block.

    If there is no such recipe yet, make it. If this fails, report the error and return 0.
    """
    step = step_of(number)
    try:
        device, aligned = (ctypes.c_int64 * 2).from_address(key)
        with _lock:
            op = _ops[step]
            program = op.laid_out(step)
            words = list((ctypes.c_int64 * program.words).from_address(block))
            shapes = []
            for item in (*step.reads, *step.writes):
                begin = program.offsets[item.name] + 1
                shapes.append(tuple(words[begin : begin + item.rank]))
            dimensions = itertools.chain(*shapes[: len(step.reads)])
            wanted = (first, device, aligned, *dimensions)
            recipe = _recipes.get(wanted)
            if recipe is None:
                values = decode_attributes(program.attributes, words[program.attribute_offset :])
                made = record(op, step, shapes, values, device, bool(aligned))
                recipe = make_recipe(step, wanted[1:], made)
                recipe[0] = ctypes.c_int64.from_address(first).value
                _recipes[wanted] = recipe
                publish(first, recipe.ctypes.data)
            return recipe.ctypes.data
    except BaseException as error:
        report(context, f"{step.label}: {type(error).__name__}: {error}")
        return 0


_PLAN = int(ctypes.cast(_plan, ctypes.c_void_p).value or 0)
