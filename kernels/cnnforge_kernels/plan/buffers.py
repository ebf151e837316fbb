"""Decide where in one block of memory each value of a program stands."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from cnnforge_kernels.plan.depthwise_blocks import depthwise_blocks
from cnnforge_kernels.plan.program import Program
from cnnforge_kernels.plan.steps import Step

# Floats of a cache line. Each value begins at a multiple of it.
_LINE = 16
# Kinds of steps that can write their result over their first input.
_IN_PLACE = (
    "affine", "activation", "add", "subtract", "multiply", "maximum", "minimum", "average",
)  # fmt: skip
# How many images run at a time, measured on a Zen 5 with 1 MiB of cache per core: a step of the
# mean size should read and write this number of float32 values. With more, the values that one step
# leaves for the next are no longer in the cache.
_CACHED_VALUES = 400_000
# A processor multiplies about 500 times while it reads a weight from main memory for each of its
# cores. Weights are read once per block, and this should take a small part of the time.
_WORK_PER_WEIGHT = 500
# Float32 weights that stay in the last level of the cache from one block to the next.
_CACHED_WEIGHTS = 4_000_000
_MAX_BLOCK = 256


class Places(NamedTuple):
    """The places of the values of a program in memory.

    Attributes:
        offsets: Offset of each value by name, in float32 values for one image. With n images a
            value stands at n times its offset.
        size: Size of the memory for one image, in float32 values.
        block: Number of images that should run at a time.
    """

    offsets: dict[str, int]
    size: int
    block: int


def place(program: Program) -> Places:
    """Decide where each value stands, so that values that are needed later are not overwritten.

    Values that are needed at different times share memory. A reshaped value stands where the
    original stands, and an elementwise step writes over its input if no other step needs it.

    Args:
        program: The program.
    """
    blocks = depthwise_blocks(program)
    # All steps of a block run at the place of the last one.
    number = {step.output: index for index, step in enumerate(program.steps)}
    read_late: dict[str, int] = {}
    for last, block in blocks.items():
        read_late[block.source] = max(number[last], read_late.get(block.source, 0))
    owner = _owners(program, read_late)
    begin: dict[str, int] = {}
    end: dict[str, int] = {}
    size: dict[str, int] = {}
    for index, step in enumerate(program.steps):
        for name in (*step.inputs, step.output):
            end[owner[name]] = index
        begin.setdefault(owner[step.output], index)
        size[owner[step.output]] = -(-prod(program.shapes[step.output]) // _LINE) * _LINE
    for name in program.output_names:
        end[owner[name]] = len(program.steps)
    for name, index in read_late.items():
        end[owner[name]] = max(end[owner[name]], index)
    for block in blocks.values():
        for name in block.between:
            size[owner[name]] = 0
    at: dict[str, int] = {}
    # Large values first: small ones fit between them.
    for name in sorted(size, key=lambda name: (-size[name], begin[name])):
        at[name] = _free_place(
            size[name],
            [
                (at[other], at[other] + size[other])
                for other in at
                if begin[other] <= end[name] and begin[name] <= end[other]
            ],
        )
    offsets = {name: at[owner[name]] for name in owner}
    total = max(at[name] + size[name] for name in at)
    return Places(offsets, total, _block(program))


def _free_place(size: int, taken: list[tuple[int, int]]) -> int:
    """Return the smallest offset at which ``size`` values fit between the taken ranges."""
    at = 0
    for begin, end in sorted(taken):
        if begin - at >= size:
            break
        at = max(at, end)
    return at


def _owners(program: Program, read_late: dict[str, int]) -> dict[str, str]:
    """Return the value in whose memory each value stands: itself, or an input of its step."""
    last = {name: index for index, step in enumerate(program.steps) for name in step.inputs}
    last |= {name: max(index, last[name]) for name, index in read_late.items()}
    kept = set(program.output_names)
    owner: dict[str, str] = {}
    # The values in the memory of an owner, to see when all of them are used up.
    members: dict[str, list[str]] = {}
    for index, step in enumerate(program.steps):
        source = step.inputs[0] if step.inputs else None
        shared = None
        if source is not None and step.kind == "reshape":
            shared = owner[source]
        elif source is not None and _overwrites(step, program):
            others = members[owner[source]]
            # An input that is read several times must not be overwritten.
            again = any(owner[name] == owner[source] for name in step.inputs[1:])
            used_up = all(last.get(name, -1) <= index and name not in kept for name in others)
            if used_up and not again:
                shared = owner[source]
        owner[step.output] = step.output if shared is None else shared
        members.setdefault(owner[step.output], []).append(step.output)
    return owner


def _overwrites(step: Step, program: Program) -> bool:
    """Return whether a step can write its result over its first input."""
    shapes = program.shapes
    return step.kind in _IN_PLACE and shapes[step.inputs[0]] == shapes[step.output]


def _block(program: Program) -> int:
    """Choose the number of images that run at a time."""
    shapes = program.shapes
    steps = [step for step in program.steps if step.kind != "reshape"]
    between, sources = set(), {}
    for name, block in depthwise_blocks(program).items():
        between.update(block.between)
        sources[name] = [block.source, *block.last.inputs[1:]]
    # The values that each call reads and writes.
    calls = [
        [*sources.get(step.output, step.inputs), step.output]
        for step in steps
        if step.output not in between
    ]
    values = sum(prod(shapes[name]) for names in calls for name in names) / len(calls)
    block = round(_CACHED_VALUES / values)
    weights = {
        id(step.arrays["weights"]): step.arrays["weights"].size
        for step in steps
        if "weights" in step.arrays
    }
    if sum(weights.values()) > _CACHED_WEIGHTS:
        work = sum(_work(step, program) for step in steps)
        block = max(block, round(_WORK_PER_WEIGHT * sum(weights.values()) / work))
    return max(1, min(_MAX_BLOCK, block))


def _work(step: Step, program: Program) -> int:
    """Return the number of multiplications of a step for one image."""
    if "weights" not in step.arrays:
        return 0
    pool = step.options.get("pool") or (1, 1)
    return prod(program.shapes[step.output][:-1]) * prod(pool) * step.arrays["weights"].size
