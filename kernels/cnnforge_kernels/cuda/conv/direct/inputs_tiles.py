"""What the kernels of ``direct_inputs.py`` are compiled for, and the tile that fits a shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from cnnforge_kernels.cuda.conv.specialization import Kind, size_of

# Of a thread's innermost step: products, and gradients in registers; a longer body is not unrolled,
# and what it indexes leaves the registers. Its sums are there all the time.
_PRODUCTS, _PATCH_FLOATS, _MOST_SUMS = 360, 48, 32
_MOST_THREADS, _LEAST_THREADS, _MOST_ACROSS = 256, 32, 16
# Of 48 KiB, so that several blocks fit on a multiprocessor.
_SHARED_FLOATS = 10240
# Of a large device: two for each multiprocessor, and eight for each.
_ENOUGH_BLOCKS, _ENOUGH_WARPS = 264, 1056


@dataclass(frozen=True, kw_only=True)
class DirectInputs(Kind):
    """What a kernel is compiled for.

    Attributes:
        pool: ``None`` without pooling.
        area: rows of cells of a tile, and threads that share one. ``fitting`` finds it, and what
            follows.
        chunk: filters in shared memory at a time, a multiple of four.
        shares: threads that share the filters of an input.
    """

    pool: tuple[int, int] | None = None
    area: tuple[int, int] = (1, 1)
    chunk: int = 4
    shares: int = 1

    @property
    def channel_units(self) -> int:
        """Threads that share the channels."""
        return -(-self.channels // 4)

    @property
    def channel_tile(self) -> int:
        """Channels of a thread."""
        return -(-self.channels // self.channel_units)

    @property
    def steps(self) -> tuple[int, int]:
        """Rows and columns of gradients that a cell meets."""
        down, across = (-(-self.window[a] // self.strides[a]) for a in (0, 1))
        return down, across

    def _fits(self, cells: int) -> bool:
        patch = cells + (self.steps[1] - 1) * self.dilation[1]
        products = self.strides[0] * self.window[1] * self.channel_tile * 4 * cells
        sums = prod(self.strides) * self.channel_tile * cells
        return 4 * patch <= _PATCH_FLOATS and products <= _PRODUCTS and sums <= _MOST_SUMS

    @property
    def cells(self) -> int:
        """Neighbouring cells of a thread; 0 where the window is too wide."""
        most = 4 if prod(self.strides) == 1 else 2
        if most * self.channel_tile == 4:
            most = 8
        return next((cells for cells in (8, 4, 2, 1) if cells <= most and self._fits(cells)), 0)

    @property
    def patch(self) -> tuple[int, int]:
        """Rows and columns of gradients that a tile meets."""
        down = self.area[0] + (self.steps[0] - 1) * self.dilation[0]
        return down, self.area[1] * self.cells + (self.steps[1] - 1) * self.dilation[1]

    def column(self, column: int) -> int:
        """Where a column of gradients lies in shared memory.

        Behind the cells of each thread there is a gap: the threads of a warp read at odd distances,
        from different banks.
        """
        return column + column // self.cells if self.cells > 1 else column

    @property
    def line(self) -> int:
        """Quads of a row of gradients; the next row goes on with the same distances."""
        needed, distance = self.column(self.patch[1] - 1) + 1, self.cells | 1
        return needed + (self.area[1] * distance - needed) % 8

    @property
    def plane(self) -> int:
        """Quads of four filters' gradients."""
        return self.patch[0] * self.line | 1

    @property
    def weight_floats(self) -> int:
        """Weights in shared memory, with rows of zeros where the stride needs them."""
        rows = self.steps[0] * self.strides[0]
        return rows * self.window[1] * self.channel_units * self.channel_tile * self.chunk

    @property
    def shared_floats(self) -> int:
        """Size of the shared memory."""
        sums = prod(self.strides) * self.cells * self.channel_tile * self.workers
        return max(self.weight_floats + self.plane * self.chunk, sums * (self.shares > 1))

    @property
    def workers(self) -> int:
        """Threads of a block that have something to compute."""
        return self.area[0] * self.area[1] * self.channel_units * self.shares

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return -(-self.workers // 32) * 32

    @property
    def wide(self) -> bool:
        """Four filters are loaded at a time."""
        return self.aligned and self.filters % 4 == 0

    @property
    def name(self) -> str:
        """``"conv2d_grad_inputs 3x3x8x16 direct 14x4"`` and what differs from that."""
        kind = "conv_block_grad_inputs" if self.pool else "conv2d_grad_inputs"
        direct = size_of("direct", self.area) + f" filters {self.chunk}"
        shares = f"shares {self.shares}" if self.shares > 1 else ""
        return self.named(kind, size_of("pool", self.pool), direct, shares)


def fitting(c: DirectInputs, images: int, rows: int, columns: int) -> DirectInputs | None:
    """The kind with the tile for so many images, and rows and columns of cells of each.

    Returns:
        ``None`` where none fits.
    """
    if not c.filters or not c.cells or c.channel_units > _LEAST_THREADS // 2:
        return None
    filters = -(-c.filters // 4) * 4
    across = -(-columns // c.cells)
    across = -(-across // -(-across // _MOST_ACROSS))
    warps = images * rows * -(-columns // c.cells) * c.channel_units // 32
    shares = next(it for it in (1, 2, 4) if it == 4 or it * warps >= _ENOUGH_WARPS)
    while 4 * shares > filters:
        shares //= 2
    c = replace(c, shares=shares, chunk=min(filters, max(8, 4 * shares)))
    found, threads = None, _MOST_THREADS
    while threads >= _LEAST_THREADS:
        most = max(threads // (across * c.channel_units * shares), 1)
        tiles = range(-(-rows // most), rows + 1)
        made = (replace(c, area=(-(-rows // it), across)) for it in tiles)
        found = next((it for it in made if it.shared_floats <= _SHARED_FLOATS), None)
        if found is None or _blocks(found, images, rows, columns) >= _ENOUGH_BLOCKS:
            break
        threads //= 2
    if found is None or found.threads > _MOST_THREADS:
        return None
    while found.chunk < filters:
        larger = replace(found, chunk=min(2 * found.chunk, filters))
        # In the copy a thread has some of the filters to itself.
        lanes = larger.chunk // (4 if c.wide else 1)
        if larger.shared_floats > _SHARED_FLOATS or lanes > larger.threads:
            break
        found = larger
    return found


def _blocks(c: DirectInputs, images: int, rows: int, columns: int) -> int:
    return images * -(-rows // c.area[0]) * -(-columns // (c.area[1] * c.cells))
