"""Multiply matrices, as a 1x1 convolution or a dense layer does.

A 1x1 convolution multiplies the matrix of all pixels of all images, (P, C), by the weights, (C, F).
The kernel reads the pixels where they are, without scratch memory, and a register tile
(``simd/tiles.py``) covers neighbouring pixels even if they are in two rows or two images. Each
output is one sum over all channels in their order. So it depends neither on the number of threads
nor on the size of the tile.

The weights are packed in blocks of the filters of a tile. A task multiplies some pixels by some
blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnforge_kernels.cpu.conv.packing import copy_floats, pack_planes
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_family,
    vector_lanes,
    vector_registers,
)
from cnnforge_kernels.cpu.runtime.llvm import (
    F32,
    I32,
    I64,
    Loop,
    fma,
    literals,
    pointer_to,
    splat,
    unpack,
)
from cnnforge_kernels.cpu.runtime.memory import address_of
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.simd.tile_choice import TILES, tile_number, tile_of_number
from cnnforge_kernels.cpu.simd.tiles import (
    tile_add,
    tile_broadcast,
    tile_clip,
    tile_relu,
    tile_store_after,
)

# Fields of the argument block. Addresses and strides are in bytes; the other fields are numbers of
# elements. ADDED is 0 if nothing is added. The pixels are divided into PARTS parts, and the BLOCKS
# blocks of filters into COLUMNS parts. Within a task, the pixels are divided into chunks of CHUNK
# pixels, a multiple of the tile's positions.
SOURCE, SOURCE_PIXEL, PIXELS, COUNT, WEIGHTS, BIAS = range(6)
TARGET, TARGET_PIXEL, ADDED, FILTERS, BLOCKS, ACTIVATION = range(6, 12)
PARTS, COLUMNS, CHUNK, GRAIN = range(12, 16)
FIELDS = 16

# Values of ACTIVATION.
NONE, RELU, RELU6 = range(3)

_LANES = vector_lanes()
_REGISTERS = vector_registers()
_MAX_VECTORS = 4 if _REGISTERS == 32 else 2
# A tile needs a register for the address of each position, and the processor has 16 of these.
_MAX_POSITIONS = 8
# The pixels that a task reads should fit a quarter of a second-level cache of 512 KiB.
_TASK_BYTES = 128 * 1024
# Weights of this size stay in a second-level cache of 1 MiB together with the pixels of a tile.
_WEIGHT_BYTES = 384 * 1024
# The number of multiply-adds of 5 us, at 32 in a nanosecond. With few and long tasks a thread would
# often wait for the last task of another thread.
_GRAIN_WORK = 160_000
# The minimum number of tasks for each thread, if there are so many tiles.
TASKS_EACH = 4


@intrinsic(prefer_literal=True)
def product_accumulate(
    typingctx: Any,
    tile: Any,
    source: Any,
    weights: Any,
    count: Any,
    pixel: Any,
    step: Any,
    positions: Any,
    vectors: Any,
    lanes: Any,
) -> Any:
    """Add products to a tile: ``tile[t] += source[t * pixel + k * step] * weights[k]``.

    It sums over k < ``count``. ``source`` and ``weights`` are addresses; ``pixel`` and ``step`` are
    in bytes. ``weights[k]`` are ``vectors * lanes`` floats.
    """
    shape = literals(positions, vectors, lanes)
    if shape is None or not isinstance(tile, types.UniTuple):
        return None
    T, G, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, source, weights, count, pixel, step = args[:6]
        kind = ir.VectorType(F32, L)
        steps = [builder.mul(pixel, ir.Constant(I64, t)) for t in range(T)]
        loop = Loop(builder, count, [*unpack(builder, start, T * G), source, weights])
        *sums, here, weight = loop.values
        row = [
            builder.load(pointer_to(builder, weight, kind, 4 * L * v), align=4) for v in range(G)
        ]
        results = []
        for t in range(T):
            place = pointer_to(builder, builder.add(here, steps[t]), F32)
            value = splat(builder, builder.load(place, align=4), kind)
            results += [fma(builder, value, row[v], sums[t * G + v]) for v in range(G)]
        following = [
            builder.add(here, step),
            builder.add(weight, ir.Constant(I64, 4 * L * G)),
        ]
        final = loop.finish([*results, *following])[: T * G]
        return context.make_tuple(builder, tile, final)

    integer = types.int64
    return tile(tile, *[integer] * 5, positions, vectors, lanes), codegen


@intrinsic(prefer_literal=True)
def tile_prefetch(
    typingctx: Any, address: Any, stride: Any, positions: Any, vectors: Any, lanes: Any
) -> Any:
    """Prefetch the cache lines of each position t of a tile at ``address + t * stride``."""
    shape = literals(positions, vectors, lanes)
    if shape is None:
        return None
    T, G, L = shape

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for t in range(T):
            start = builder.add(args[0], builder.mul(args[1], ir.Constant(I64, t)))
            for line in range(0, 4 * G * L, 64):
                place = pointer_to(builder, start, byte, line)
                builder.call(function, [place, I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, positions, vectors, lanes), codegen


@kernel_family(TILES)
def PRODUCT(number: int) -> Any:
    """Multiply pixels by weights, for tasks ``begin`` to ``end - 1``."""
    T, G, L, _ = tile_of_number(number)
    WIDTH = G * L

    @cached_cfunc(KERNEL_SIGNATURE)
    def _product_kernel(block: Any, begin: int, end: int) -> None:
        a = carray(block, FIELDS)
        pixel, step, activation = a[SOURCE_PIXEL], a[TARGET_PIXEL], a[ACTIVATION]
        count, columns, parts, blocks = a[COUNT], a[COLUMNS], a[PARTS], a[BLOCKS]
        tiles = (a[PIXELS] + T - 1) // T
        for task in range(begin, end):
            part, column = task // columns, task % columns
            first, last = part * tiles // parts * T, (part + 1) * tiles // parts * T
            last = min(last, a[PIXELS])
            first_block, last_block = column * blocks // columns, (column + 1) * blocks // columns
            for begun in range(first, last, a[CHUNK]):
                done = min(begun + a[CHUNK], last)
                for number in range(first_block, last_block):
                    weights = a[WEIGHTS] + 4 * number * count * WIDTH
                    bias = a[BIAS] + 4 * number * WIDTH
                    valid = a[FILTERS] - number * WIDTH
                    for place in range(begun, done, T):
                        # Let the last tile end at the last pixel. It overlaps the tile before it,
                        # so skip what is stored already: `added` may be the same memory as the
                        # target.
                        skipped = max(0, place + T - done)
                        at = place - skipped
                        offset = at * step + 4 * number * WIDTH
                        if a[ADDED] != 0:
                            # What is added often comes from main memory. Fetch it meanwhile.
                            tile_prefetch(a[ADDED] + offset, step, T, G, L)
                        tile = product_accumulate(
                            tile_broadcast(bias, T, G, L),
                            a[SOURCE] + at * pixel,
                            weights,
                            count,
                            pixel,
                            4,
                            T,
                            G,
                            L,
                        )
                        if a[ADDED] != 0:
                            tile = tile_add(tile, a[ADDED] + offset, step, valid, T, G)
                        if activation != NONE:
                            tile = tile_relu(tile)
                            if activation == RELU6:
                                tile = tile_clip(tile)
                        tile_store_after(tile, a[TARGET] + offset, step, valid, skipped, T, G)

    return _product_kernel


@cached_njit()
def product_width(filters: int) -> tuple[int, int]:
    """Return the vectors of a tile and their lanes for a number of filters.

    The packed weights depend only on these two numbers.
    """
    lanes = _LANES
    while lanes > 4 and filters <= lanes // 2:
        lanes //= 2
    needed = (filters + lanes - 1) // lanes
    best, vectors = 0, 1
    for wide in range(1, min(needed, _MAX_VECTORS) + 1):
        blocks = (needed + wide - 1) // wide
        # Each vector costs its multiply-adds, and each block costs the loads of the pixels.
        cost = blocks * (8 * wide + 3)
        if best == 0 or cost < best:
            best, vectors = cost, wide
    return vectors, lanes


@cached_njit()
def product_positions(pixels: int, vectors: int) -> int:
    """Return the positions of a tile for a number of pixels."""
    largest = min(_MAX_POSITIONS, (_REGISTERS - vectors - 2) // vectors, pixels)
    best, positions = 0, 1
    for wide in range(largest, 0, -1):
        tiles = (pixels + wide - 1) // wide
        # A tile of few sums waits for the results of its multiply-adds.
        cost = tiles * max(wide * vectors, 8)
        if best == 0 or 32 * cost < 31 * best:
            best, positions = cost, wide
    return positions


@cached_njit()
def divide_product(a: Any, positions: int, width: int, fewest: int) -> int:
    """Set the fields that divide a product into tasks, and return the number of tasks.

    ``a`` is the argument block, whose PIXELS, COUNT and BLOCKS are set. ``positions`` and ``width``
    are the pixels and the filters of a tile. ``fewest`` is the minimum number of tasks, if there
    are so many tiles.
    """
    pixels, count, blocks = a[PIXELS], a[COUNT], a[BLOCKS]
    a[PARTS], a[COLUMNS], a[CHUNK], a[GRAIN] = 1, 1, max(pixels, 1), 1
    if pixels == 0 or blocks == 0:
        return 0
    tiles = (pixels + positions - 1) // positions
    bytes_each = max(4 * count, 1)
    if blocks * width > pixels and tiles < 64:
        # Few pixels: each task reads its own weights, so that these are read from memory once.
        a[COLUMNS] = blocks
    else:
        wanted = max(_TASK_BYTES // (bytes_each * positions), 1)
        a[PARTS] = (tiles + wanted - 1) // wanted
        a[COLUMNS] = min(blocks, (fewest + a[PARTS] - 1) // a[PARTS])
    a[PARTS] = min(tiles, max(a[PARTS], (fewest + a[COLUMNS] - 1) // a[COLUMNS]))
    if bytes_each * blocks * width <= _WEIGHT_BYTES:
        # The weights stay in the cache. So compute all filters of a tile's pixels, and write the
        # outputs in the order of their addresses.
        a[CHUNK] = positions
    tasks = a[PARTS] * a[COLUMNS]
    a[GRAIN] = max(1, _GRAIN_WORK * tasks // max(pixels * count * blocks * width, 1))
    return tasks


# Fields of the argument block of _LAUNCH, after those of a product: the address of the weights and
# of the bias (0 for none), and whether the weights are (filters, channels) and not (channels,
# filters).
_FACTORS, _BIAS_SOURCE, _TURNED = range(FIELDS, FIELDS + 3)
_LAUNCH_FIELDS = FIELDS + 3
_FEWEST_TASKS = 16


@kernel_family(1)
def _LAUNCH(_: int) -> Any:
    """Pack the weights, set the remaining arguments, and run the tasks of a product."""

    @cached_cfunc(KERNEL_SIGNATURE)
    def _launch_product(block: Any, _begin: int, _end: int) -> None:
        a = carray(block, _LAUNCH_FIELDS)
        count, filters, pixels = a[COUNT], a[FILTERS], a[PIXELS]
        # Variables, because Numba would compile the called functions again for literals.
        zero, one, fewest = np.int64(0), np.int64(1), np.int64(_FEWEST_TASKS)
        vectors, lanes = product_width(filters)
        width = vectors * lanes
        a[BLOCKS] = (filters + width - 1) // width
        packed = aligned_floats(a[BLOCKS] * count * width)
        packed_bias = aligned_floats(a[BLOCKS] * width)
        packed_bias[:] = np.float32(0)
        if filters % width != 0:
            packed[(a[BLOCKS] - 1) * count * width :] = np.float32(0)
        for number in range(a[BLOCKS]):
            first = number * width
            valid = min(width, filters - first)
            target = address_of(packed) + 4 * number * count * width
            if a[_TURNED] != 0:
                # Each filter is a row of floats. Write it as a column.
                source = a[_FACTORS] + 4 * first * count
                pack_planes(
                    target, 4 * width, one, source, zero, 4 * count, zero, zero, valid, count
                )
                continue
            for k in range(count):
                source = a[_FACTORS] + 4 * (k * filters + first)
                copy_floats(target + 4 * k * width, source, valid)
        if a[_BIAS_SOURCE] != 0:
            copy_floats(address_of(packed_bias), a[_BIAS_SOURCE], filters)
        a[WEIGHTS], a[BIAS] = address_of(packed), address_of(packed_bias)
        a[SOURCE_PIXEL], a[TARGET_PIXEL] = 4 * count, 4 * filters
        positions = product_positions(pixels, vectors)
        tasks = divide_product(a, positions, width, fewest)
        run_kernel(PRODUCT + tile_number(positions, vectors, lanes, 1), a, tasks, a[GRAIN])
        # The kernel got only the addresses of these arrays. Numba frees an array after its last
        # use, so use the arrays here: they must not be freed earlier.
        packed[:0] = np.float32(0)
        packed_bias[:0] = np.float32(0)

    return _launch_product


@cached_njit()
def multiply(
    source: Any, weights: Any, turned: bool, bias: Any, activation: int, target: Any
) -> None:
    """Multiply all pixels of ``source`` by the weights of a 1x1 convolution.

    Args:
        source: (N, H, W, C) float32, C-contiguous, as all arrays here; not empty.
        weights: (1, 1, C, F), or (1, 1, F, C) if ``turned``.
        turned: whether the weights are (1, 1, F, C).
        bias: (F,); empty if there is no bias.
        activation: ``NONE``, ``RELU`` or ``RELU6``.
        target: (N, H, W, F), written; not empty.
    """
    a = np.zeros(_LAUNCH_FIELDS, np.int64)
    a[SOURCE], a[TARGET] = address_of(source), address_of(target)
    a[COUNT], a[FILTERS] = source.shape[3], target.shape[3]
    a[PIXELS] = source.shape[0] * source.shape[1] * source.shape[2]
    a[_FACTORS], a[_TURNED] = address_of(weights), 1 if turned else 0
    a[_BIAS_SOURCE] = address_of(bias) if bias.size > 0 else 0
    a[ACTIVATION] = activation
    call_once(_LAUNCH, a)
