"""The compute callback, the machine code with which TensorFlow computes any op on a CUDA device.

Experimental: not yet run on a device.

A *recipe* is the list of the kernel launches of an op for given shapes (`recipe.py`). The callback
finds the recipe for the shapes of its inputs, fills in the pointers to the tensors, and calls
`cuLaunchKernel` on TensorFlow's stream. Python code runs only for new shapes, to make a recipe.
"""

# A type checker reports the calls of intrinsics, because they lack the first parameter, the typing
# context. Numba adds it.
# pyright: reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import tensorflow as tf
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnforge.ops.tensorflow.c_api import (
    TF_AllocateTemp,
    TF_DeleteTensor,
    TF_GetCode,
    TF_NewStatus,
    TF_TensorData,
)
from cnnforge.ops.tensorflow.compute import (
    ALLOCATION_FAILED,
    BLOCK_WORDS,
    HEADER,
    INPUT_WORDS,
    INPUTS,
    LAUNCH_FAILED,
    NO_STREAM,
    NUMBER,
    OUTPUT_WORDS,
    OUTPUTS,
    REPORTED,
    begin,
    finish,
    words_at,
)
from cnnforge.ops.tensorflow.cuda.recipe import (
    ALIGNED,
    ALIGNMENT,
    ARGUMENTS,
    BLOCK,
    DEVICE,
    DIMENSIONS,
    FUNCTION,
    GRID,
    IS_NUMBER,
    LAUNCH,
    LAUNCH_WORDS,
    NEXT,
    OWN_WORDS,
    PLAN,
    RECIPES,
    SHARED,
    STREAM,
)

_UINT8 = tf.uint8.as_datatype_enum


@intrinsic
def _store(typingctx: Any, address: Any, word: Any) -> Any:
    """Store a word with release order: a thread that reads it sees all earlier stores too."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store_atomic(arguments[1], place, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@numba.njit("void(int64, int64)", cache=True)
def publish(first, recipe):
    """Make a finished recipe the first one of a list, which other threads may be reading.

    `first` is the address of the word that contains the address of the first recipe.
    """
    _store(first, recipe)


@intrinsic
def _call_plan(
    typingctx: Any, address: Any, number: Any, recipes: Any, block: Any, key: Any, context: Any
) -> Any:
    """Call `int64 plan(int64 number, void *recipes, int64 *block, int64 key[2], void *context)`."""
    return types.int64(*[types.int64] * 6), _caller(64, 5)


@intrinsic
def _call_stream(typingctx: Any, address: Any, context: Any, found: Any) -> Any:
    """Call `int32 stream(void *context, int64 found[2])`."""
    return types.int32(*[types.int64] * 3), _caller(32, 2)


@intrinsic
def _call_launch(
    typingctx: Any,
    address: Any,
    function: Any,
    grid_x: Any,
    grid_y: Any,
    grid_z: Any,
    block: Any,
    shared: Any,
    stream: Any,
    arguments: Any,
) -> Any:
    """Call `cuLaunchKernel`, with thread blocks of one dimension."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, number = ir.IntType(64), ir.IntType(32)
        kinds = [word, *[number] * 7, word, word, word]
        kind = ir.FunctionType(number, kinds)
        address, function, *sizes = values[:7]
        sizes = [builder.trunc(size, number) for size in sizes]
        one = ir.Constant(number, 1)
        given = [function, *sizes[:4], one, one, sizes[4], *values[7:], ir.Constant(word, 0)]
        return builder.call(builder.inttoptr(address, kind.as_pointer()), given)

    return types.int32(*[types.int64] * 9), generate


def _caller(bits: int, count: int) -> Callable[..., Any]:
    """Return a function that emits the instructions of a call, for use in an intrinsic.

    Args:
        bits: Size of the integer that the called function returns, in bits.
        count: Number of arguments of the called function, all int64.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(bits), [ir.IntType(64)] * count)
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    return generate


@numba.njit(cache=True)
def all_aligned(state, block):
    """Whether all tensors begin at multiples of 16 bytes."""
    position = HEADER
    for _ in range(state[INPUTS]):
        if block[state[position + 1]] % ALIGNMENT != 0:
            return False
        position += INPUT_WORDS
    for _ in range(state[OUTPUTS]):
        if block[state[position + 1]] % ALIGNMENT != 0:
            return False
        position += OUTPUT_WORDS
    return True


@numba.njit(cache=True)
def _find(state, first, block, key):
    """Find the recipe for the shapes in the argument block, and for a key.

    The key consists of the index of the device, and whether all tensors are aligned. Return two
    numbers: the address of the recipe (0 if it does not exist yet), and the index of the word that
    follows the shapes in it.
    """
    address = words_at(first)[0]
    word = DIMENSIONS
    while address != 0:
        recipe = words_at(address)
        same = recipe[DEVICE] == key[0] and recipe[ALIGNED] == key[1]
        word = DIMENSIONS
        for index in range(state[INPUTS]):
            rank = state[HEADER + INPUT_WORDS * index]
            offset = state[HEADER + INPUT_WORDS * index + 1]
            for axis in range(rank):
                same = same and recipe[word] == block[offset + 1 + axis]
                word += 1
        if same:
            break
        address = recipe[NEXT]
    return address, word


@numba.njit(cache=True)
def _pointers(state, block, count):
    """Return the addresses of the inputs, then those of the outputs, then `count` zeros."""
    inputs, outputs = state[INPUTS], state[OUTPUTS]
    pointers = np.zeros(inputs + outputs + count, np.int64)
    for index in range(inputs):
        pointers[index] = block[state[HEADER + INPUT_WORDS * index + 1]]
    position = HEADER + INPUT_WORDS * inputs
    for index in range(outputs):
        pointers[inputs + index] = block[state[position + OUTPUT_WORDS * index + 1]]
    return pointers


@numba.njit(cache=True)
def _allocate(context, recipe, word, count, handles, pointers, status):
    """Allocate `count` pieces of temporary memory, and write their addresses to `pointers`.

    Their sizes begin at the index `word` of the recipe. Their addresses become the last elements of
    `pointers`. Return whether an allocation has failed.
    """
    size = np.empty(1, np.int64)
    for index in range(count):
        size[0] = recipe[word + index]
        handles[index] = TF_AllocateTemp(
            context, np.int32(_UINT8), size.ctypes.data, np.int32(1), 0, status
        )
        if TF_GetCode(status) != 0:
            return True
        pointers[pointers.size - count + index] = TF_TensorData(handles[index])
    return False


@numba.njit(cache=True)
def _launch(function, recipe, word, pointers, stream):
    """Launch the kernels of a recipe. Return CUDA's error code, or 0.

    The word at the index `word` of the recipe is the number of launches; these follow it.
    """
    launches = recipe[word]
    word += 1
    for _ in range(launches):
        count = recipe[word + ARGUMENTS]
        values = np.empty(count, np.int64)
        places = np.empty(count, np.int64)
        for index in range(count):
            place = recipe[word + LAUNCH_WORDS + 2 * index]
            values[index] = recipe[word + LAUNCH_WORDS + 2 * index + 1]
            if place != IS_NUMBER:
                values[index] += pointers[place]
            places[index] = values.ctypes.data + 8 * index
        error = _call_launch(
            function,
            recipe[word + FUNCTION],
            recipe[word + GRID],
            recipe[word + GRID + 1],
            recipe[word + GRID + 2],
            recipe[word + BLOCK],
            recipe[word + SHARED],
            stream,
            places.ctypes.data,
        )
        # The driver has copied the arguments during the call, so `values` may be freed now.
        if error != 0:
            return np.int64(error)
        word += LAUNCH_WORDS + 2 * count
    return np.int64(0)


@numba.njit(cache=True)
def _run(own, state, context, block, handles, status):
    """Compute the op; `finish` must follow.

    Return two numbers: an error code (0 if there is no error), and a detail for the error message.
    The detail is CUDA's error code if a launch has failed, and otherwise the index of an array, as
    in `begin`.
    """
    code, where = begin(state, context, block, handles, status)
    if code != 0:
        return code, where
    found = np.zeros(2, np.int64)
    if _call_stream(own[STREAM], context, found.ctypes.data) != 0:
        return NO_STREAM, 0
    key = np.empty(2, np.int64)
    key[0] = found[1]
    key[1] = all_aligned(state, block)
    address, word = _find(state, own[RECIPES], block, key)
    if address == 0:
        address = _call_plan(
            own[PLAN], state[NUMBER], own[RECIPES], block.ctypes.data, key.ctypes.data, context
        )
        if address == 0:
            return REPORTED, 0
        word = _find(state, own[RECIPES], block, key)[1]
    recipe = words_at(address)
    count = recipe[word]
    temporaries = np.zeros(count, np.intp)
    pointers = _pointers(state, block, count)
    failed = _allocate(context, recipe, word + 1, count, temporaries, pointers, status)
    if not failed:
        where = _launch(own[LAUNCH], recipe, word + 1 + count, pointers, found[0])
    # The temporary memory can be deleted although the kernels may still run: TensorFlow uses it
    # again only for work that runs after these launches, on the same stream.
    for index in range(count):
        if temporaries[index] != 0:
            TF_DeleteTensor(temporaries[index])
    if failed:
        return ALLOCATION_FAILED, 0
    return (LAUNCH_FAILED, where) if where != 0 else (0, 0)


@numba.cfunc(types.void(types.intp, types.intp), cache=True)
def compute_on_cuda(address, context):
    """Compute a node; TensorFlow calls this as `void(void *state, TF_OpKernelContext *)`."""
    own = words_at(address)
    state = words_at(address + 8 * OWN_WORDS)
    status = TF_NewStatus()
    handles = np.zeros(state[INPUTS] + state[OUTPUTS], np.intp)
    block = np.zeros(state[BLOCK_WORDS], np.int64)
    code, where = _run(own, state, context, block, handles, status)
    finish(state, context, code, where, handles, status)
