"""The compute callback, the machine code with which TensorFlow computes any op on the CPU.

It needs neither Python nor the GIL. Each node of a graph has a *state*, an array of 64-bit words
that `make_state` makes when TensorFlow creates the node's kernel. The compute callback reads the
state, fetches the inputs, calls the shape rule, allocates the outputs and calls the author's
function.
"""

# A type checker reports the calls of intrinsics, because they lack the first parameter, the typing
# context. Numba adds it.
# pyright: reportCallIssue=false

from __future__ import annotations

import sys
from typing import Any

import numba
import numpy as np
import tensorflow as tf
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge.ops.compiling.program import Program, lock_address
from cnnforge.ops.tensorflow.c_api import (
    TF_AllocateOutput,
    TF_DeleteStatus,
    TF_DeleteTensor,
    TF_Dim,
    TF_GetCode,
    TF_GetInput,
    TF_NewStatus,
    TF_NumDims,
    TF_OpKernelContext_Failure,
    TF_TensorData,
    pthread_mutex_lock,
    pthread_mutex_unlock,
)

# Indices of the first words of a state. After these words come the words of each input, those of
# each output, and the encoded attributes.
_ENTRY, _SHAPE_ENTRY, _LOCK, INPUTS, OUTPUTS, BLOCK_WORDS = 0, 1, 2, 3, 4, 5
_FAIL, NUMBER, _ATTRIBUTE_OFFSET, ATTRIBUTE_WORDS = 6, 7, 8, 9
HEADER = 10
# Number of words of an input: its rank, and its offset in the argument block.
INPUT_WORDS = 2
# Number of words of an output: its rank, its offset in the argument block, TensorFlow's dtype, the
# bytes per element, and the offset of the array that has the same shape (-1 if the shape rule
# computes the shape).
OUTPUT_WORDS = 5

# Error codes for the fail callback.
WRONG_RANK, SHAPE_RULE_RAISED, NEGATIVE_SHAPE, ALLOCATION_FAILED, FUNCTION_RAISED = 1, 2, 3, 4, 5
NO_STREAM, LAUNCH_FAILED = 6, 7
# Code of an error that has been reported already. The fail callback is not called for it.
REPORTED = -1


def make_state(
    program: Program, entry: int, attribute_words: list[int], fail: int, number: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Make the state of a node, with everything that the compute callback needs.

    Args:
        program: The program of the step that the node runs.
        entry: Address of the machine code that runs it; 0 if it does not run on the CPU.
        attribute_words: The encoded attributes.
        fail: Address of the fail callback, `void(number, code, where, context)`. It runs Python
            code, and is called only to report an error.
        number: Index of the step, which is passed to the fail callback.

    Returns:
        The words of the state.
    """
    step = program.step
    shape_entry = program.shape_entry
    state = [
        entry,
        shape_entry.address if shape_entry else 0,
        lock_address(),
        len(step.reads),
        len(step.writes),
        program.words,
        fail,
        number,
        program.attribute_offset,
        len(attribute_words),
    ]
    for array in step.reads:
        state += [array.rank, program.offsets[array.name]]
    sources = step.shape_source or (None,) * len(step.writes)
    for array, source in zip(step.writes, sources, strict=True):
        state += [
            array.rank,
            program.offsets[array.name],
            tf.as_dtype(array.dtype).as_datatype_enum,
            array.dtype.itemsize,
            -1 if source is None else program.offsets[source],
        ]
    return np.array(state + attribute_words, np.int64)


@intrinsic
def words_at(typingctx: Any, address: Any) -> Any:
    """Convert an address to a pointer to 64-bit words."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), generate


@intrinsic
def _call_entry(typingctx: Any, address: Any, block: Any) -> Any:
    """Call `int32 entry(int64 *block)`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), [ir.IntType(64)])
        return builder.call(builder.inttoptr(arguments[0], function.as_pointer()), arguments[1:])

    return types.int32(types.int64, types.int64), generate


@intrinsic
def _call_fail(
    typingctx: Any, address: Any, number: Any, code: Any, where: Any, context: Any
) -> Any:
    """Call `void fail(int64 number, int64 code, int64 where, void *context)`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4)
        builder.call(builder.inttoptr(arguments[0], function.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@numba.njit(cache=True)
def _fetch_inputs(state, context, block, handles, status):
    """Write the address and shape of each input to the argument block.

    Return 0, or 1 + the index of an input if its rank is wrong.
    """
    for index in range(state[INPUTS]):
        position = HEADER + INPUT_WORDS * index
        rank, offset = state[position], state[position + 1]
        TF_GetInput(context, np.int32(index), handles.ctypes.data + 8 * index, status)
        tensor = handles[index]
        if TF_NumDims(tensor) != rank:
            return index + 1
        block[offset] = TF_TensorData(tensor)
        for axis in range(rank):
            block[offset + 1 + axis] = TF_Dim(tensor, np.int32(axis))
    return 0


@numba.njit(cache=True)
def _allocate_outputs(state, context, block, handles, status):
    """Allocate the outputs, and write their addresses to the argument block.

    Return two numbers: an error code (0 if there is no error), and the index of the output that
    caused the error.
    """
    inputs = state[INPUTS]
    for index in range(state[OUTPUTS]):
        position = HEADER + INPUT_WORDS * inputs + OUTPUT_WORDS * index
        rank, offset, source = state[position], state[position + 1], state[position + 4]
        size = state[position + 3]
        for axis in range(rank):
            if source >= 0:
                block[offset + 1 + axis] = block[source + 1 + axis]
            if block[offset + 1 + axis] < 0:
                return NEGATIVE_SHAPE, index
            size *= block[offset + 1 + axis]
        tensor = TF_AllocateOutput(
            context,
            np.int32(index),
            np.int32(state[position + 2]),
            block.ctypes.data + 8 * (offset + 1),
            np.int32(rank),
            np.uint64(size),
            status,
        )
        if TF_GetCode(status) != 0:
            return ALLOCATION_FAILED, index
        handles[inputs + index] = tensor
        block[offset] = TF_TensorData(tensor)
    return 0, 0


@numba.njit(cache=True)
def begin(state, context, block, handles, status):
    """Fill in the argument block: the inputs, the attributes, and the outputs, which it allocates.

    Return two numbers: an error code (0 if there is no error), and the index of the array that
    caused the error.
    """
    wrong = _fetch_inputs(state, context, block, handles, status)
    if wrong != 0:
        return WRONG_RANK, wrong - 1
    attributes = attributes_at(state)
    for index in range(state[ATTRIBUTE_WORDS]):
        block[state[_ATTRIBUTE_OFFSET] + index] = state[attributes + index]
    if state[_SHAPE_ENTRY] != 0 and _call_entry(state[_SHAPE_ENTRY], block.ctypes.data) != 0:
        return SHAPE_RULE_RAISED, 0
    return _allocate_outputs(state, context, block, handles, status)


@numba.njit(cache=True)
def attributes_at(state):
    """Return the index of the first word of the attributes in a state."""
    return HEADER + INPUT_WORDS * state[INPUTS] + OUTPUT_WORDS * state[OUTPUTS]


@numba.njit(cache=True)
def _run(state, context, block, handles, status):
    """Compute the op. Return an error code and an index, like `begin`; `finish` must follow."""
    code, where = begin(state, context, block, handles, status)
    if code != 0:
        return code, where
    if state[_LOCK] != 0:
        pthread_mutex_lock(state[_LOCK])
    failed = _call_entry(state[_ENTRY], block.ctypes.data)
    if state[_LOCK] != 0:
        pthread_mutex_unlock(state[_LOCK])
    if failed != 0:
        return FUNCTION_RAISED, 0
    return 0, 0


@numba.njit(cache=True)
def finish(state, context, code, where, handles, status):
    """Report an error if `code` is not 0, and delete the handles of the tensors and the status."""
    if code == ALLOCATION_FAILED:
        TF_OpKernelContext_Failure(context, status)
    elif code > 0:
        _call_fail(state[_FAIL], state[NUMBER], code, where, context)
    for index in range(handles.size):
        if handles[index] != 0:
            TF_DeleteTensor(handles[index])
    TF_DeleteStatus(status)


@numba.cfunc(types.void(types.intp, types.intp), cache=True)
def compute(state_address, context):
    """Compute a node; TensorFlow calls this as `void(void *state, TF_OpKernelContext *)`."""
    state = words_at(state_address)
    status = TF_NewStatus()
    handles = np.zeros(state[INPUTS] + state[OUTPUTS], np.intp)
    block = np.zeros(state[BLOCK_WORDS], np.int64)
    code, where = _run(state, context, block, handles, status)
    finish(state, context, code, where, handles, status)


if sys.maxsize < 2**32:
    raise ImportError("a pointer does not fit a word of 64 bits here")
