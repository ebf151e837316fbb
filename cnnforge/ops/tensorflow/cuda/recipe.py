"""Encode the kernel launches of a step (one function of an op) as a *recipe*, an array of words.

Experimental: not yet run on a device.

The launches depend on the shapes, the attributes and the device. Python code makes one recipe for
each combination of these. The compute callback for CUDA devices (`compute.py`) reads the recipe and
makes the launches. An argument of a launch is either a number or a pointer. The recipe stores a
pointer as the index of a tensor, or of temporary memory, and an offset in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnforge.ops.cuda_module import Recording
from cnnforge.ops.definition.definition import Step

# The state of a node begins with these words: the address of a word that contains the address of
# the first recipe, and the addresses of three functions. The words of `make_state` follow.
RECIPES, PLAN, STREAM, LAUNCH = 0, 1, 2, 3
OWN_WORDS = 4
# Words of a recipe: the address of the next recipe, the key (the device, whether all tensors are
# aligned, and the shapes of the tensors that are read), the number of pieces of temporary memory,
# their sizes, the number of launches, and the launches.
NEXT, DEVICE, ALIGNED, DIMENSIONS = 0, 1, 2, 3
# Words of a launch: the function, the grid, the number of threads of a block, the size of shared
# memory, and the number of arguments. For each argument two words follow: for a pointer the result
# of `_place`, for a number `IS_NUMBER` and the number.
FUNCTION, GRID, BLOCK, SHARED, ARGUMENTS = 0, 1, 4, 5, 6
LAUNCH_WORDS = 7
IS_NUMBER = -1
ALIGNMENT = 16


def make_cuda_state(
    recipes: int, plan: int, stream: int, launch: int, state: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Make the state of a node: all words that the compute callback for CUDA devices needs.

    Args:
        recipes: Address of the word that contains the address of the first recipe. Recipes are
            never removed.
        plan: Address of a callback, `int64 plan(number, recipes, block, key, context)`. It adds a
            recipe to the list and returns its address, or reports an error and returns 0.
        stream: Address of the function that finds TensorFlow's CUDA stream.
        launch: Address of `cuLaunchKernel`.
        state: The words of `make_state`.

    Returns:
        The words of the state.
    """
    return np.concatenate([np.array([recipes, plan, stream, launch], np.int64), state])


def make_recipe(
    step: Step, key: Sequence[int], recording: Recording
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Make a recipe from the recorded launches of a step.

    Args:
        step: The step.
        key: The index of the device, whether all tensors are aligned, and the dimensions of all
            tensors that the step reads.
        recording: The recorded launches.

    Returns:
        The words of the recipe. The address of the next recipe is 0; the caller replaces it.

    Raises:
        ValueError: A pointer does not point into a tensor or the temporary memory.
    """
    known = [*recording.tensors, *recording.memories]
    sizes = [size for _, size in recording.memories]
    words = [0, *key, len(sizes), *sizes, len(recording.launches)]
    for launch in recording.launches:
        words += [launch.function, *launch.grid, launch.block, launch.shared]
        words.append(len(launch.arguments))
        for value in launch.arguments:
            if isinstance(value, int):
                words += _place(step, known, value)
            else:
                content = np.asarray(value).tobytes().ljust(8, b"\0")
                words += [IS_NUMBER, int.from_bytes(content, "little", signed=True)]
    return np.array(words, np.int64)


def _place(step: Step, known: Sequence[tuple[int, int]], pointer: int) -> tuple[int, int]:
    """Return two numbers: the index in `known` of the memory of a pointer, and the offset there."""
    for place, (address, size) in enumerate(known):
        if address <= pointer < address + max(size, 1):
            return place, pointer - address
    raise ValueError(
        f"{step.label}: it launches a kernel with a pointer that is not into a tensor: {pointer:#x}"
    )
