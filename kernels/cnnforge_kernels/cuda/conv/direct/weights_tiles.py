"""What the kernels of ``direct_weights.py`` are compiled for, and the tile that fits a shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cnnforge_kernels.cuda.conv.specialization import Kind, size_of

# Sums in a thread's registers; products of its innermost step, and inputs in registers meanwhile: a
# longer body is not unrolled, and what it indexes leaves the registers.
_MOST_SUMS, _PRODUCTS, _PATCH_FLOATS = 64, 320, 40
_MOST_UNITS, _MOST_THREADS = 192, 256
# Of 48 KiB, so that several blocks fit on a multiprocessor.
_SHARED_FLOATS = 10240
_MOST_COLUMNS = 64
MOST_SLICES = 512
# Of a large device, and the warps of one that hide what each of them waits for.
_MULTIPROCESSORS, _ENOUGH_WARPS = 132, 8
# Instructions that a tile takes whatever its size.
_TILE_COST = 400


def _line(floats: int) -> int:
    """An odd number of quads: threads of a warp read several rows at a time, in other banks."""
    return 4 * (-(-floats // 4) | 1)


@dataclass(frozen=True, kw_only=True)
class DirectWeights(Kind):
    """What a kernel is compiled for.

    Attributes:
        area: rows and columns of a tile of outputs, of the convolution or, with ``pool``, of the
            pool. ``fitting`` finds it.
        pool: ``None`` without pooling.
    """

    area: tuple[int, int] = (1, 1)
    pool: tuple[int, int] | None = None

    @property
    def filter_tile(self) -> int:
        """Filters of a thread."""
        return 8 if self.filters > 4 and self.window[1] * self.channel_tile * 8 <= _MOST_SUMS else 4

    @property
    def channel_tile(self) -> int:
        """Channels of a thread."""
        channels = 4 if self.vector == 4 else self.channels
        return channels if self.window[1] * channels * 4 <= _MOST_SUMS else 1

    @property
    def sums(self) -> int:
        """Accumulators of a thread."""
        return self.window[1] * self.channel_tile * self.filter_tile

    @property
    def filter_units(self) -> int:
        """Threads that share the filters."""
        return -(-self.filters // self.filter_tile)

    @property
    def channel_units(self) -> int:
        """Threads that share the channels."""
        return -(-self.channels // self.channel_tile)

    @property
    def units(self) -> int:
        """Threads that share all weights."""
        return self.window[0] * self.channel_units * self.filter_units

    def _step_cost(self, step: int) -> int:
        """Products and loads of a step."""
        wide = self.channel_tile == self.vector == 4
        patch = (step - 1) * self.strides[1] + (self.window[1] - 1) * self.dilation[1] + 1
        return step * (self.sums + self.filter_tile // 4) + patch * (
            1 if wide else self.channel_tile
        )

    @property
    def step(self) -> int:
        """Pixels whose products a thread computes together: those that take least for a row."""
        width = self.area[1] * (self.pool or (1, 1))[1]
        reach = (self.window[1] - 1) * self.dilation[1] + 1
        fitting = [
            step
            for step in (4, 2)
            if ((step - 1) * self.strides[1] + reach) * self.channel_tile <= _PATCH_FLOATS
            and step * self.sums <= _PRODUCTS
        ]
        return min([*fitting, 1], key=lambda step: -(-width // step) * self._step_cost(step))

    @property
    def cost(self) -> int:
        """About how many instructions the warps of a block issue for a tile."""
        passes, steps = -(-self.cells[0] // self.segments), self.cells[1] // self.step
        return self.threads * (passes * steps * self._step_cost(self.step) + _TILE_COST)

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of a tile of the convolution's outputs; whole steps."""
        down, across = self.pool or (1, 1)
        width = self.area[1] * across
        return self.area[0] * down, -(-width // self.step) * self.step

    @property
    def segments(self) -> int:
        """Threads that share the pixels of a tile, row by row."""
        passes = -(-self.cells[0] // max(_MOST_THREADS // self.units, 1))
        return -(-self.cells[0] // passes)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return -(-self.segments * self.units // 32) * 32

    @property
    def patch(self) -> tuple[int, int]:
        """Rows and columns of the inputs that a tile meets."""
        down, across = (
            (self.cells[a] - 1) * self.strides[a] + (self.window[a] - 1) * self.dilation[a] + 1
            for a in (0, 1)
        )
        return down, across

    @property
    def copied_floats(self) -> int:
        """Of the inputs and gradients of a tile, in shared memory."""
        return self.patch[0] * self.input_line + self.cells[0] * self.line

    @property
    def shared_floats(self) -> int:
        """Size of the shared memory."""
        copied = self.copied_floats
        totals = self.threads * (4 if self.wide else 1)
        if self.segments <= 2:
            return max(copied, totals, self.units * self.sums * (self.segments - 1))
        return max(copied, totals, self.threads * self.round_taps * self.sums // self.window[1])

    @property
    def input_line(self) -> int:
        """Floats of a row of inputs in shared memory."""
        return _line(self.patch[1] * self.channel_units * self.channel_tile)

    @property
    def line(self) -> int:
        """Floats of a row of gradients in shared memory."""
        return _line(self.cells[1] * self.filter_units * self.filter_tile)

    @property
    def round_taps(self) -> int:
        """Taps of a row whose sums the threads add up at a time."""
        each = self.threads * self.sums // self.window[1]
        return max(min(_SHARED_FLOATS // each, self.window[1]), 1)

    @property
    def wide(self) -> bool:
        """Four filters are loaded at a time."""
        return self.aligned and self.filters % 4 == 0

    @property
    def name(self) -> str:
        """``"conv2d_grad_weights 5x5x1x8 direct 28x28"`` and what differs from that."""
        kind = "conv_block_grad_weights" if self.pool else "conv2d_grad_weights"
        return self.named(kind, size_of("pool", self.pool), size_of("direct", self.area))


def fitting(c: DirectWeights, images: int, rows: int, columns: int) -> DirectWeights | None:
    """The kind with the tile for so many images, and rows and columns of their upstream gradients.

    Returns:
        ``None`` where none fits.
    """
    if c.units > _MOST_UNITS or c.sums > _MOST_SUMS:
        return None
    # An image may have no outputs: then the gradients are zero.
    rows, columns = max(rows, 1), max(columns, 1)
    parts = -(-columns * (c.pool or (1, 1))[1] // _MOST_COLUMNS)
    found = []
    for area_rows in range(1, rows + 1):
        made = replace(c, area=(area_rows, -(-columns // parts)))
        if made.copied_floats > _SHARED_FLOATS:
            break
        lanes = c.filter_units * c.filter_tile
        if made.shared_floats <= _SHARED_FLOATS and lanes <= made.threads:
            found.append((_time(made, images * -(-rows // area_rows) * parts), -area_rows, made))
    return min(found, key=lambda it: it[:2])[2] if found else None


def _time(c: DirectWeights, tiles: int) -> float:
    """About how long the fullest multiprocessor takes, of no unit."""
    count = max(min(tiles, MOST_SLICES), 1)
    each = -(-tiles // count)
    resident = -(-count // _MULTIPROCESSORS)
    return resident * each * c.cost / min(resident * c.threads // 32, _ENOUGH_WARPS)
