"""What a step launches, in words that the compute callback for CUDA devices reads.

It depends on the shapes, the attributes and the device. Python says it once for each of these, as a
*recipe*: a list of launches whose arguments are numbers, or tensors and temporary memory by their
place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnforge.ops.cuda_module import Recording
from cnnforge.ops.definition.definition import Step

# Words of a node's state, before those of every node's: where the address of the first recipe is,
# and the addresses of three functions.
RECIPES, PLAN, STREAM, LAUNCH = 0, 1, 2, 3
OWN_WORDS = 4
# Words of a recipe: the address of the next one, the key (device, whether all tensors are aligned,
# the dimensions of what is read), the sizes of temporary memory, launches.
NEXT, DEVICE, ALIGNED, DIMENSIONS = 0, 1, 2, 3
# Words of a launch, before two for each argument: function, grid, block, shared memory, arguments.
FUNCTION, GRID, BLOCK, SHARED, ARGUMENTS = 0, 1, 4, 5, 6
LAUNCH_WORDS = 7
IS_NUMBER = -1
ALIGNMENT = 16


def make_cuda_state(
    recipes: int, plan: int, stream: int, launch: int, state: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Write down everything that the compute callback has to know about a node.

    Args:
        recipes: Where the address of the first recipe is. A recipe that is there stays there.
        plan: The address of the callback that adds a recipe to those and returns its address, or
            reports an error and returns 0: `int64 plan(number, recipes, block, key, context)`.
        stream: The address of what finds the stream.
        launch: The address of `cuLaunchKernel`.
        state: What `make_state` returns.

    Returns:
        The words of the state.
    """
    return np.concatenate([np.array([recipes, plan, stream, launch], np.int64), state])


def make_recipe(
    step: Step, key: Sequence[int], recording: Recording
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Write down what the compute callback shall launch.

    Args:
        step: The step.
        key: The device, whether all tensors are aligned, the dimensions of what the step reads.
        recording: What it launches.

    Returns:
        The words of the recipe, with no next one.

    Raises:
        ValueError: A pointer to none of the tensors and memories.
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
    """Which of the memories a pointer points into, and how far behind its begin."""
    for place, (address, size) in enumerate(known):
        if address <= pointer < address + max(size, 1):
            return place, pointer - address
    raise ValueError(
        f"{step.label}: it launches a kernel with a pointer to no tensor: {pointer:#x}"
    )
