"""Direct gradient of the inputs, for convolutions with few channels.

An implicit matrix product (``gemm/forward.py``) has one column per channel and computes at least
eight columns, but a first layer often has one channel. The kernel of this module computes only the
channels that exist. A block copies to shared memory the weights of some filters and the upstream
gradients that a tile of inputs depends on. A thread then computes the gradients of a few
neighbouring inputs, in all channels or in four, and reads the upstream gradients of four filters at
a time. The copy applies the mask of the ReLU and writes zeros outside the outputs, so the loop over
the taps has no conditions. With max pooling after the convolution (``pool`` is given), the copy
also writes each gradient to the cell of its pooling window that is the argmax, and zeros to the
other cells.

With a stride, two inputs are read by the same taps only if their rows and columns have the same
remainders modulo the strides. A thread computes whole cells of strides[0] x strides[1] inputs.
Each cell contains every pair of remainders once, so all threads do the same work.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide, load4, load4_bytes, store4
from cnnforge_kernels.cuda.conv.direct.inputs_tiles import DirectInputs

float32, int32, uint32, int64 = np.float32, np.int32, np.uint32, np.int64


@cache
def direct_inputs(c: DirectInputs) -> Kernel:
    """Make the kernel for these constants.

    Its arguments are grads, mask (outputs of the forward pass, for ``relu``), argmax (for
    ``pool``), weights and grad_inputs; then height and width of the inputs, rows and columns of
    ``grads``, top and left padding, and the number of tiles down and across an image. The grid is
    (tiles, groups).
    """
    RELU, POOLED = c.relu, c.pool is not None
    KH, KW = c.window
    SR, SC = c.strides
    DR, DC = c.dilation
    PH, PW = c.pool or (1, 1)
    CHANNELS, ALL_CHANNELS = c.channels, c.channels * c.groups
    FILTERS, ALL_FILTERS = c.filters, c.filters * c.groups
    CT, CHANNEL_UNITS, CELLS = c.channel_tile, c.channel_units, c.cells
    MR, MC = c.steps
    AREA_H, AREA_W = c.area
    GH, GW = c.patch
    LINE, PLANE, CHUNK = c.line, c.plane, c.chunk
    SHARES, THREADS, WORKERS = c.shares, c.threads, c.workers
    ALONE = WORKERS // SHARES
    PLACES = AREA_H * AREA_W
    CP = CHANNEL_UNITS * CT
    # Distance in shared memory between the gradients of neighbouring threads, including the gap.
    STEP = c.column(CELLS)
    V = 4 if c.wide else 1
    VT = 4 if c.aligned and CHANNELS % 4 == 0 else 1
    # During the copy a thread keeps its column and its filters, so from row to row it only changes
    # an address. PARTS: number of parts in which a row is copied. ROWS: number of rows that the
    # block copies at once. BATCH: number of loads that a thread starts before it uses the values.
    LANES = CHUNK // V
    COPIES = THREADS // LANES
    COPIED_H, COPIED_W = (
        size if pool == 1 else (size + pool - 2) // pool + 1 for size, pool in ((GH, PH), (GW, PW))
    )
    PARTS, ROWS = -(-COPIED_W // COPIES), max(COPIES // COPIED_W, 1)
    BEFORE_H, BEFORE_W = (MR - 1) * DR // PH + 1, (MC - 1) * DC // PW + 1
    BATCH = 2 if POOLED else 4
    VALUES = max(BATCH * V, 4)
    WEIGHTS, WEIGHT_LOADS = c.weight_floats, c.weight_floats // V
    SHARED = c.shared_floats
    WIDTH = CELLS + (MC - 1) * DC
    PATCH, SUMS = 4 * WIDTH, SR * SC * CELLS * CT

    @kernel(
        c.name,
        *("float32*",) * 2,
        "uint8*",
        *("float32*",) * 2,
        *("int32",) * 8,
        threads=THREADS,
        blocks=max(512 // THREADS, 2),
        identity=(c,),
    )
    def direct_inputs(
        grads,
        mask,
        argmax,
        weights,
        grad_inputs,
        height,
        width,
        rows,
        columns,
        top,
        left,
        tiles_down,
        tiles_across,
    ):
        shared = cuda.shared.array(SHARED, float32, alignment=16)
        acc = cuda.local.array(SUMS, float32)
        patch = cuda.local.array(PATCH, float32)
        value = cuda.local.array(VALUES, float32)
        cell = cuda.local.array(VALUES, int32)
        routed = cuda.local.array(V, float32)
        places = cuda.local.array(PW, int32)
        there = cuda.local.array(PW, int32)
        thread = int32(cuda.threadIdx.x)
        group = int32(cuda.blockIdx.y)
        line = divide(cuda.blockIdx.x, tiles_across)
        image = divide(line, tiles_down)
        # First row and column of cells of this tile, counted from the start of the padding.
        cell_row = int32(divide(top, SR) + (line - image * tiles_down) * AREA_H)
        cell_column = int32(cuda.blockIdx.x - line * tiles_across) * (AREA_W * CELLS)
        cell_column = int32(cell_column + divide(left, SC))
        share = divide(thread, ALONE)
        rest = int32(thread - share * ALONE)
        unit = divide(rest, PLACES)
        rest = int32(rest - unit * PLACES)
        down = divide(rest, AREA_W)
        beside = int32(rest - down * AREA_W)
        copy = divide(thread, LANES)
        f0 = int32((thread - copy * LANES) * V)
        copy_row = divide(copy, COPIED_W)
        copy_column = int32(copy - copy_row * COPIED_W)
        first_row = int32(cell_row - (MR - 1) * DR)
        first_column = int32(cell_column - (MC - 1) * DC)
        # `divide` does not accept negative numbers. So add a multiple of the divisor, and subtract
        # the corresponding quotient after the division. This rounds towards minus infinity.
        pooled_row = int32(divide(first_row + BEFORE_H * PH, PH) - BEFORE_H)
        pooled_column = int32(divide(first_column + BEFORE_W * PW, PW) - BEFORE_W)
        source = int64(image) * (rows * columns * ALL_FILTERS) + group * FILTERS
        for a in range(SUMS):
            acc[a] = float32(0)
        for chunk in range(0, FILTERS, CHUNK):
            cuda.syncthreads()
            for e in range(thread, WEIGHT_LOADS, THREADS):
                k = divide(e, CHUNK // V)
                f = int32(chunk + (e - k * (CHUNK // V)) * V)
                tap = divide(k, CP)
                ch = int32(k - tap * CP)
                inside = tap < KH * KW and ch < CHANNELS and f < FILTERS
                place = int32((tap * CHANNELS + ch) * ALL_FILTERS + group * FILTERS + f)
                if V == 4:
                    for v in range(4):
                        value[v] = float32(0)
                    if inside:
                        x = load4(weights, place)
                        value[0], value[1], value[2], value[3] = x[0], x[1], x[2], x[3]
                    store4(shared, uint32(e * 4), value[0], value[1], value[2], value[3])
                else:
                    x = float32(0)
                    if inside:
                        x = weights[place]
                    shared[uint32(e)] = x
            for part in range(PARTS):
                at = int32(part * COPIES + copy_column)
                column = int32(pooled_column + at)
                inside = uint32(column) < uint32(columns) and chunk + f0 < FILTERS
                quad = divide(f0, 4)
                for q in range(PW):
                    # With pooling, a window may reach past the tile, so x may be negative or too
                    # large.
                    x = int32(column * PW + q - first_column)
                    there[q] = int32(PW == 1 or uint32(x) < uint32(GW))
                    if CELLS > 1:
                        x = int32(x + divide(max(x, 0), CELLS))
                    x = int32(quad * PLANE + x)
                    places[q] = int32(WEIGHTS + f0 - 4 * quad + 4 * x)
                copied = copy_row
                if at < COPIED_W and copy_row < ROWS:
                    while copied < COPIED_H:
                        for n in range(BATCH):
                            for v in range(V):
                                value[n * V + v] = float32(0)
                                cell[n * V + v] = int32(0)
                            row = int32(pooled_row + copied + n * ROWS)
                            if inside and uint32(row) < uint32(rows):
                                place = int32(row * columns + column)
                                place = source + int64(place) * ALL_FILTERS + int32(chunk + f0)
                                if V == 4:
                                    g = load4(grads, place)
                                    value[n * 4], value[n * 4 + 1] = g[0], g[1]
                                    value[n * 4 + 2], value[n * 4 + 3] = g[2], g[3]
                                    if RELU:
                                        m = load4(mask, place)
                                        for v in range(4):
                                            if not m[v] > float32(0):
                                                value[n * 4 + v] = float32(0)
                                    if POOLED:
                                        k = load4_bytes(argmax, place)
                                        cell[n * 4], cell[n * 4 + 1] = k[0], k[1]
                                        cell[n * 4 + 2], cell[n * 4 + 3] = k[2], k[3]
                                else:
                                    value[n] = grads[place]
                                    if RELU and not mask[place] > float32(0):
                                        value[n] = float32(0)
                                    if POOLED:
                                        cell[n] = int32(argmax[place])
                        for n in range(BATCH):
                            for p in range(PH):
                                y = int32((pooled_row + copied + n * ROWS) * PH + p - first_row)
                                if uint32(y) < uint32(GH):
                                    for q in range(PW):
                                        for v in range(V):
                                            routed[v] = value[n * V + v]
                                            if POOLED and cell[n * V + v] != p * PW + q:
                                                routed[v] = float32(0)
                                        t = uint32(places[q] + y * (LINE * 4))
                                        if there[q] != 0:
                                            if V == 4:
                                                store4(
                                                    shared,
                                                    t,
                                                    routed[0],
                                                    routed[1],
                                                    routed[2],
                                                    routed[3],
                                                )
                                            else:
                                                shared[t] = routed[0]
                        copied = int32(copied + BATCH * ROWS)
            cuda.syncthreads()
            if thread < WORKERS:
                quad = share
                while quad < CHUNK // 4:
                    w0 = uint32(unit * (CT * CHUNK) + quad * 4)
                    # Tap 0 multiplies the last row of gradients, so start there and move up.
                    g0 = int32(quad * PLANE + (down + (MR - 1) * DR) * LINE + beside * STEP)
                    g0 = int32(WEIGHTS + g0 * 4)
                    for _ in range(MR):
                        g1 = uint32(g0)
                        for b in range(WIDTH):
                            gap = b // CELLS if CELLS > 1 else 0
                            x = load4(shared, g1 + uint32((b + gap) * 4))
                            patch[b * 4] = x[0]
                            patch[b * 4 + 1] = x[1]
                            patch[b * 4 + 2] = x[2]
                            patch[b * 4 + 3] = x[3]
                        for p in range(SR):
                            for j in range(KW):
                                for ch in range(CT):
                                    k = (p * KW + j) * (CP * CHUNK) + ch * CHUNK
                                    w = load4(shared, w0 + uint32(k))
                                    q = int32(j - divide(j, SC) * SC)
                                    # Tap 0 multiplies the last column of gradients, so count the
                                    # columns from the end.
                                    n = int32((MC - 1 - divide(j, SC)) * DC)
                                    for b in range(CELLS):
                                        t = ((p * SC + q) * CELLS + b) * CT + ch
                                        k = (n + b) * 4
                                        # These products are not a loop, because the compiler would
                                        # not unroll it.
                                        acc[t] = (
                                            acc[t]
                                            + patch[k] * w[0]
                                            + patch[k + 1] * w[1]
                                            + patch[k + 2] * w[2]
                                            + patch[k + 3] * w[3]
                                        )
                        w0 = uint32(w0 + uint32(SR * KW * CP * CHUNK))
                        g0 = int32(g0 - DR * LINE * 4)
                    quad = int32(quad + SHARES)

        if SHARES > 1:
            cuda.syncthreads()
            if thread < WORKERS:
                for a in range(SUMS):
                    shared[uint32(a * WORKERS + thread)] = acc[a]
            cuda.syncthreads()
            if share == 0:
                for a in range(SUMS):
                    for s in range(1, SHARES):
                        acc[a] += shared[uint32(a * WORKERS + s * ALONE + thread)]
        if share == 0:
            target = int64(image) * (height * width * ALL_CHANNELS) + group * CHANNELS
            for p in range(SR):
                row = int32((cell_row + down) * SR + p - top)
                for q in range(SC):
                    for b in range(CELLS):
                        column = int32((cell_column + beside * CELLS + b) * SC + q - left)
                        if uint32(row) < uint32(height) and uint32(column) < uint32(width):
                            place = int32((row * width + column) * ALL_CHANNELS + unit * CT)
                            t = ((p * SC + q) * CELLS + b) * CT
                            if VT == 4:
                                store4(
                                    grad_inputs,
                                    target + place,
                                    acc[t],
                                    acc[t + 1],
                                    acc[t + 2],
                                    acc[t + 3],
                                )
                            else:
                                for ch in range(CT):
                                    if unit * CT + ch < CHANNELS:
                                        grad_inputs[target + place + ch] = acc[t + ch]

    return direct_inputs
