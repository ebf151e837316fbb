"""Direct gradients of the weights and the bias, for convolutions with few channels.

An implicit matrix product (``gemm/weights.py``) loads each input once for every tap that reads it.
For a 5x5 window and one channel, these loads would take ten times as many instructions as the
multiplications. In the kernel of this module, a block copies to shared memory a tile of the
upstream gradient and the inputs that the windows of the tile read, each once. A thread keeps the
sums of one row of taps and of a few filters in registers. It moves along the rows of the tile. In
each step it reads a few pixels and uses them for all of its taps. The copies apply the mask of the
ReLU and write zeros outside the image.

With max pooling after the convolution (``pool`` is given), the copy writes each gradient to the
cell of its pooling window that is the argmax, and zeros to the other cells. For a 2x2 pool the
kernel then multiplies four times as often as necessary. But it uses each value from shared memory
for several products, while a kernel that multiplies only at the argmax (``gather.py``) loads values
for one product each.

The zeros matter if an input is infinite or NaN. The gradients of all taps that read this input
become NaN. TensorFlow gives the same result, because its gradient of the outputs before pooling has
the same zeros. The last step of a row may also read inputs past the end of the row. The gradients
there are zero, but zero times infinity is NaN, so such an input may make one more tap NaN.

The sum over all pixels is cut into slices, and ``reduce.py`` adds the sums of the slices.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from cnnforge_kernels.cuda.codegen.jit import Kernel, cuda, kernel
from cnnforge_kernels.cuda.codegen.memory import divide, load4, load4_bytes, store4
from cnnforge_kernels.cuda.conv.direct.forward import NO_ARGMAX
from cnnforge_kernels.cuda.conv.direct.weights_tiles import DirectWeights

float32, int32, uint32, int64 = np.float32, np.int32, np.uint32, np.int64


@cache
def direct_weights(c: DirectWeights) -> Kernel:
    """Make the kernel for these constants.

    Its arguments are inputs, grads, mask (outputs of the forward pass, for ``relu``), argmax (for
    ``pool``) and scratch; then height and width of the inputs, rows and columns of ``grads``, top
    and left padding, the number of tiles down an image, across it and in total, the number of tiles
    per slice and the number of floats per slice of the scratch array. The grid is (groups, slices).
    A slice of the scratch array holds the gradient of the weights (KH, KW, C / groups, F), then
    that of the bias (F,).
    """
    RELU, POOLED = c.relu, c.pool is not None
    KH, KW = c.window
    SR, SC = c.strides
    DR, DC = c.dilation
    PH, PW = c.pool or (1, 1)
    CHANNELS, ALL_CHANNELS = c.channels, c.channels * c.groups
    FILTERS, ALL_FILTERS = c.filters, c.filters * c.groups
    CT, FT, STEP = c.channel_tile, c.filter_tile, c.step
    CHANNEL_UNITS, FILTER_UNITS, UNITS = c.channel_units, c.filter_units, c.units
    SEGMENTS, THREADS = c.segments, c.threads
    AREA_H, AREA_W = c.area
    DOWN, ACROSS = c.cells
    # Number of columns of the upstream gradient that are copied, including columns of zeros beyond
    # the tile.
    COPIED_W = -(-ACROSS // PW)
    EVEN = ACROSS % PW == 0
    XH = c.patch[0]
    VX, VG = c.vector, 4 if c.wide else 1
    XC, GC, X_LINE, LINE = CHANNEL_UNITS * CT, FILTER_UNITS * FT, c.input_line, c.line
    # During both copies a thread keeps its column and its channels or filters, so from row to row
    # it only changes an address. PARTS: number of parts in which a row is copied. ROWS: number of
    # rows that the block copies at once.
    X_WIDTH = c.patch[1] * XC // VX
    X_PARTS, X_ROWS = -(-X_WIDTH // THREADS), max(THREADS // X_WIDTH, 1)
    LANES = GC // VG
    COPIES = THREADS // LANES
    G_PARTS, G_ROWS = -(-COPIED_W // COPIES), max(COPIES // COPIED_W, 1)
    # Number of loads that a thread starts before it uses the values: of inputs, and of gradients.
    BATCH, G_BATCH = 4, 2 if c.pool else 4
    VALUES = 4 * BATCH
    GRADS = XH * X_LINE
    SHARED = c.shared_floats
    WIDTH = (STEP - 1) * SC + (KW - 1) * DC + 1
    PAIRS, WIDE = KW * CT, CT == 4 and VX == 4
    PATCH, SUMS, PART, TAPS = WIDTH * CT, c.sums, CT * FT, c.round_taps
    WEIGHTS = KH * KW * CHANNELS * ALL_FILTERS

    @kernel(
        c.name,
        *("float32*",) * 3,
        "uint8*",
        "float32*",
        *("int32",) * 11,
        threads=THREADS,
        blocks=max(512 // THREADS, 2),
        identity=(c,),
    )
    def direct_weights(
        inputs,
        grads,
        mask,
        argmax,
        scratch,
        height,
        width,
        rows,
        columns,
        top,
        left,
        tiles_down,
        tiles_across,
        tiles,
        slice_tiles,
        slice_floats,
    ):
        shared = cuda.shared.array(SHARED, float32, alignment=16)
        acc = cuda.local.array(SUMS, float32)
        patch = cuda.local.array(PATCH, float32)
        across = cuda.local.array(FT, float32)
        value = cuda.local.array(VALUES, float32)
        routed = cuda.local.array(VG, float32)
        cell = cuda.local.array(VALUES, int32)
        total = cuda.local.array(VG, float32)
        thread = int32(cuda.threadIdx.x)
        group = int32(cuda.blockIdx.x)
        segment = divide(thread, UNITS)
        unit = int32(thread - segment * UNITS)
        rest = divide(unit, FILTER_UNITS)
        f0 = int32((unit - rest * FILTER_UNITS) * FT)
        i = divide(rest, CHANNEL_UNITS)
        ch0 = int32((rest - i * CHANNEL_UNITS) * CT)
        x_row = divide(thread, X_WIDTH)
        x_lane = int32(thread - x_row * X_WIDTH)
        copy = divide(thread, LANES)
        filter0 = int32((thread - copy * LANES) * VG)
        g_row = divide(copy, COPIED_W)
        g_lane = int32(copy - g_row * COPIED_W)
        for a in range(SUMS):
            acc[a] = float32(0)
        for v in range(VG):
            total[v] = float32(0)
        begin = int32(cuda.blockIdx.y * slice_tiles)
        end = int32(min(begin + slice_tiles, tiles))
        for tile in range(begin, end):
            line = divide(tile, tiles_across)
            image = divide(line, tiles_down)
            area_row = int32((line - image * tiles_down) * AREA_H)
            area_column = int32((tile - line * tiles_across) * AREA_W)
            row0 = int32(area_row * (PH * SR) - top)
            column0 = int32(area_column * (PW * SC) - left)
            source = int64(image) * (height * width * ALL_CHANNELS) + group * CHANNELS
            target = int64(image) * (rows * columns * ALL_FILTERS) + group * FILTERS
            cuda.syncthreads()
            for part in range(X_PARTS):
                e = int32(part * THREADS + x_lane)
                pixel = divide(e, XC // VX)
                ch = int32((e - pixel * (XC // VX)) * VX)
                column = int32(column0 + pixel)
                inside = uint32(column) < uint32(width) and ch < CHANNELS
                place = source + int64(int32(row0 + x_row) * width + column) * ALL_CHANNELS + ch
                step = int64(width) * (X_ROWS * ALL_CHANNELS)
                t = uint32(x_row * X_LINE + e * VX)
                down = x_row
                if e < X_WIDTH and x_row < X_ROWS:
                    while down < XH:
                        for n in range(BATCH):
                            for v in range(VX):
                                value[n * VX + v] = float32(0)
                            row = int32(row0 + down + n * X_ROWS)
                            if inside and uint32(row) < uint32(height):
                                if VX == 4:
                                    x = load4(inputs, place)
                                    value[n * 4], value[n * 4 + 1] = x[0], x[1]
                                    value[n * 4 + 2], value[n * 4 + 3] = x[2], x[3]
                                else:
                                    value[n] = inputs[place]
                            place += step
                        for n in range(BATCH):
                            u = t + uint32(n * X_ROWS * X_LINE)
                            if int32(down + n * X_ROWS) < XH:
                                if VX == 4:
                                    k = n * 4
                                    store4(
                                        shared,
                                        u,
                                        value[k],
                                        value[k + 1],
                                        value[k + 2],
                                        value[k + 3],
                                    )
                                else:
                                    shared[u] = value[n]
                        down = int32(down + BATCH * X_ROWS)
                        t = uint32(t + uint32(BATCH * X_ROWS * X_LINE))
            for part in range(G_PARTS):
                beside = int32(part * COPIES + g_lane)
                column = int32(area_column + beside)
                inside = column < columns and beside < AREA_W and filter0 < FILTERS
                place = target + int64(int32(area_row + g_row) * columns + column) * ALL_FILTERS
                place += filter0
                step = int64(columns) * (G_ROWS * ALL_FILTERS)
                t = uint32(GRADS + g_row * (PH * LINE) + beside * (PW * GC) + filter0)
                down = g_row
                if beside < COPIED_W and g_row < G_ROWS:
                    while down < AREA_H:
                        for n in range(G_BATCH):
                            for v in range(VG):
                                value[n * VG + v] = float32(0)
                                cell[n * VG + v] = int32(NO_ARGMAX)
                            row = int32(area_row + down + n * G_ROWS)
                            if inside and row < rows and int32(down + n * G_ROWS) < AREA_H:
                                if VG == 4:
                                    x = load4(grads, place)
                                    value[n * 4], value[n * 4 + 1] = x[0], x[1]
                                    value[n * 4 + 2], value[n * 4 + 3] = x[2], x[3]
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
                            place += step
                        for n in range(G_BATCH):
                            for v in range(VG):
                                k = n * VG + v
                                if not POOLED or cell[k] != NO_ARGMAX:
                                    total[v] += value[k]
                            if int32(down + n * G_ROWS) < AREA_H:
                                for p in range(PH):
                                    for q in range(PW):
                                        for v in range(VG):
                                            k = n * VG + v
                                            routed[v] = value[k]
                                            if POOLED and cell[k] != p * PW + q:
                                                routed[v] = float32(0)
                                        u = t + uint32((n * G_ROWS * PH + p) * LINE + q * GC)
                                        if EVEN or int32(beside * PW + q) < ACROSS:
                                            if VG == 4:
                                                store4(
                                                    shared,
                                                    u,
                                                    routed[0],
                                                    routed[1],
                                                    routed[2],
                                                    routed[3],
                                                )
                                            else:
                                                shared[u] = routed[0]
                        down = int32(down + G_BATCH * G_ROWS)
                        t = uint32(t + uint32(G_BATCH * G_ROWS * PH * LINE))
            cuda.syncthreads()
            if segment < SEGMENTS:
                # These bounds skip gradients outside the image. They also hide the number of steps
                # from the compiler, so it does not unroll the two loops below.
                last = min(DOWN, int32(PH * (rows - area_row)))
                wide = uint32(min(ACROSS, int32(PW * (columns - area_column))) * GC)
                down = segment
                while down < last:
                    x1 = uint32((down * SR + i * DR) * X_LINE + ch0)
                    g1 = uint32(GRADS + down * LINE + f0)
                    g2 = uint32(g1 + wide)
                    while g1 < g2:
                        if WIDE:
                            for b in range(WIDTH):
                                x = load4(shared, x1 + uint32(b * XC))
                                patch[b * 4] = x[0]
                                patch[b * 4 + 1] = x[1]
                                patch[b * 4 + 2] = x[2]
                                patch[b * 4 + 3] = x[3]
                        else:
                            for t in range(PATCH):
                                b = divide(t, CT)
                                patch[t] = shared[x1 + uint32(b * XC + t - b * CT)]
                        for u in range(STEP):
                            for q in range(0, FT, 4):
                                x = load4(shared, g1 + uint32(u * GC + q))
                                across[q] = x[0]
                                across[q + 1] = x[1]
                                across[q + 2] = x[2]
                                across[q + 3] = x[3]
                            # One loop covers taps and channels, because the compiler may not unroll
                            # two nested loops.
                            for t in range(PAIRS):
                                j = divide(t, CT)
                                x = patch[(u * SC + j * DC) * CT + t - j * CT]
                                for f in range(FT):
                                    acc[t * FT + f] += x * across[f]
                        x1 = uint32(x1 + uint32(STEP * SC * XC))
                        g1 = uint32(g1 + uint32(STEP * GC))
                    down = int32(down + SEGMENTS)

        # Add the sums of the threads in thread order, so that every run gives the same bits.
        base = int64(cuda.blockIdx.y) * slice_floats + group * FILTERS
        if SEGMENTS <= 2:
            if SEGMENTS == 2:
                cuda.syncthreads()
                if segment == 1:
                    for t in range(SUMS):
                        shared[uint32(t * UNITS + unit)] = acc[t]
                cuda.syncthreads()
                if segment == 0:
                    for t in range(SUMS):
                        acc[t] += shared[uint32(t * UNITS + unit)]
            if segment == 0:
                for t in range(PAIRS):
                    j = divide(t, CT)
                    ch = int32(ch0 + t - j * CT)
                    place = base + int32(((i * KW + j) * CHANNELS + ch) * ALL_FILTERS + f0)
                    for q in range(0, FT, 4):
                        k = t * FT + q
                        if VG == 4:
                            if ch < CHANNELS and f0 + q < FILTERS:
                                store4(
                                    scratch, place + q, acc[k], acc[k + 1], acc[k + 2], acc[k + 3]
                                )
                        else:
                            for f in range(4):
                                if ch < CHANNELS and f0 + q + f < FILTERS:
                                    scratch[place + q + f] = acc[k + f]
        else:
            for j0 in range(0, KW, TAPS):
                cuda.syncthreads()
                for t in range(TAPS * PART):
                    if j0 * PART + t < SUMS:
                        shared[uint32(t * THREADS + thread)] = acc[j0 * PART + t]
                cuda.syncthreads()
                for e in range(thread, min(TAPS, KW - j0) * (PART * UNITS), THREADS):
                    t = divide(e, UNITS)
                    unit = int32(e - t * UNITS)
                    x = float32(0)
                    for s in range(SEGMENTS):
                        x += shared[uint32(t * THREADS + s * UNITS + unit)]
                    j = divide(t, PART)
                    t = int32(t - j * PART)
                    rest = divide(unit, FILTER_UNITS)
                    down = divide(rest, CHANNEL_UNITS)
                    v = divide(t, FT)
                    f = int32((unit - rest * FILTER_UNITS) * FT + t - v * FT)
                    ch = int32((rest - down * CHANNEL_UNITS) * CT + v)
                    if ch < CHANNELS and f < FILTERS:
                        tap = int32(down * KW + j0 + j)
                        scratch[base + int32((tap * CHANNELS + ch) * ALL_FILTERS + f)] = x
        cuda.syncthreads()
        if copy < COPIES:
            for v in range(VG):
                shared[uint32(copy * GC + filter0 + v)] = total[v]
        cuda.syncthreads()
        for f in range(thread, FILTERS, THREADS):
            x = float32(0)
            for k in range(COPIES):
                x += shared[uint32(k * GC + f)]
            scratch[base + WEIGHTS + f] = x

    return direct_weights
