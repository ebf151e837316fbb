"""Constants of the kernels of ``direct/inputs.py``, and the choice of their tile for a shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from cnnforge_kernels.cuda.conv.specialization import ConvSpecialization, size_of
from cnnforge_kernels.cuda.runtime.plans import MULTIPROCESSORS

# Maximum number per thread of products in the innermost loop, of gradients in registers during that
# loop, and of sums. Above these limits the compiler does not unroll the innermost loop, and then
# the arrays of the loop are in local memory instead of registers.
_MAX_PRODUCTS, _MAX_PATCH_FLOATS, _MAX_SUMS = 360, 48, 32
_MAX_THREADS, _MIN_THREADS, _MAX_THREADS_ACROSS = 256, 32, 16
# 40 KiB. A block may use 48 KiB, but with less memory more blocks fit on a multiprocessor.
_MAX_SHARED_FLOATS = 10240
_MIN_BLOCKS, _MIN_WARPS = 2 * MULTIPROCESSORS, 8 * MULTIPROCESSORS


@dataclass(frozen=True, kw_only=True)
class DirectInputs(ConvSpecialization):
    """Constants that a kernel of ``direct_inputs`` is compiled for.

    A cell is a block of strides[0] x strides[1] inputs. ``with_inputs_tile`` chooses ``area``,
    ``chunk`` and ``shares``.

    Attributes:
        pool: Rows and columns of the pooling window; ``None`` without pooling.
        area: Number of rows of cells per tile, and number of threads per row of cells.
        chunk: Number of filters in shared memory at a time, a multiple of four.
        shares: Number of threads that share the sum over the filters of an input.
    """

    pool: tuple[int, int] | None = None
    area: tuple[int, int] = (1, 1)
    chunk: int = 4
    shares: int = 1

    @property
    def channel_units(self) -> int:
        """Number of threads that share the channels of an input."""
        return -(-self.channels // 4)

    @property
    def channel_tile(self) -> int:
        """Number of channels per thread."""
        return -(-self.channels // self.channel_units)

    @property
    def steps(self) -> tuple[int, int]:
        """Number of rows and columns of upstream gradients that a cell depends on."""
        down, across = (-(-self.window[a] // self.strides[a]) for a in (0, 1))
        return down, across

    def _fits(self, cells: int) -> bool:
        patch = cells + (self.steps[1] - 1) * self.dilation[1]
        products = self.strides[0] * self.window[1] * self.channel_tile * 4 * cells
        sums = prod(self.strides) * self.channel_tile * cells
        return 4 * patch <= _MAX_PATCH_FLOATS and products <= _MAX_PRODUCTS and sums <= _MAX_SUMS

    @property
    def cells(self) -> int:
        """Number of neighbouring cells per thread; 0 if the window is too wide."""
        limit = 4 if prod(self.strides) == 1 else 2
        if limit * self.channel_tile == 4:
            limit = 8
        return next((cells for cells in (8, 4, 2, 1) if cells <= limit and self._fits(cells)), 0)

    @property
    def patch(self) -> tuple[int, int]:
        """Number of rows and columns of upstream gradients that a tile depends on."""
        down = self.area[0] + (self.steps[0] - 1) * self.dilation[0]
        return down, self.area[1] * self.cells + (self.steps[1] - 1) * self.dilation[1]

    def column(self, column: int) -> int:
        """Index of a column of gradients in a row of shared memory, in quads (four floats).

        A gap of one quad follows the cells of each thread. So neighbouring threads read at an odd
        distance from each other, and the reads of a warp are in different banks.
        """
        return column + column // self.cells if self.cells > 1 else column

    @property
    def line(self) -> int:
        """Number of quads (four floats) per row of gradients in shared memory.

        The end of a row is padded. So, modulo the 32 banks, the distance from the last thread of a
        row to the first thread of the next row is the distance between two neighbouring threads.
        """
        needed, distance = self.column(self.patch[1] - 1) + 1, self.cells | 1
        return needed + (self.area[1] * distance - needed) % 8

    @property
    def plane(self) -> int:
        """Number of quads in shared memory for the gradients of a tile and four filters."""
        return self.patch[0] * self.line | 1

    @property
    def weight_floats(self) -> int:
        """Number of weights in shared memory.

        The window is extended by rows of zeros, so that its number of rows is a multiple of the
        stride.
        """
        rows = self.steps[0] * self.strides[0]
        return rows * self.window[1] * self.channel_units * self.channel_tile * self.chunk

    @property
    def shared_floats(self) -> int:
        """Size of the shared memory in floats."""
        sums = prod(self.strides) * self.cells * self.channel_tile * self.workers
        return max(self.weight_floats + self.plane * self.chunk, sums * (self.shares > 1))

    @property
    def workers(self) -> int:
        """Number of threads of a block that compute. The remaining threads only copy."""
        return self.area[0] * self.area[1] * self.channel_units * self.shares

    @property
    def threads(self) -> int:
        """Number of threads per block, rounded up to whole warps."""
        return -(-self.workers // 32) * 32

    @property
    def wide(self) -> bool:
        """Whether four filters are loaded at a time."""
        return self.aligned and self.filters % 4 == 0

    @property
    def name(self) -> str:
        """Name of the kernel, such as ``"conv2d_grad_inputs 3x3x8x16 direct 14x4"``."""
        op = "conv_block_grad_inputs" if self.pool else "conv2d_grad_inputs"
        direct = size_of("direct", self.area) + f" filters {self.chunk}"
        shares = f"shares {self.shares}" if self.shares > 1 else ""
        return self.named(op, size_of("pool", self.pool), direct, shares)


def with_inputs_tile(c: DirectInputs, images: int, rows: int, columns: int) -> DirectInputs | None:
    """Choose the tile for ``images`` images of ``rows`` by ``columns`` cells.

    Returns:
        The constants with their tile; ``None`` if no tile fits.
    """
    if not c.filters or not c.cells or c.channel_units > _MIN_THREADS // 2:
        return None
    filters = -(-c.filters // 4) * 4
    across = -(-columns // c.cells)
    across = -(-across // -(-across // _MAX_THREADS_ACROSS))
    warps = images * rows * -(-columns // c.cells) * c.channel_units // 32
    shares = next(shares for shares in (1, 2, 4) if shares == 4 or shares * warps >= _MIN_WARPS)
    while 4 * shares > filters:
        shares //= 2
    c = replace(c, shares=shares, chunk=min(filters, max(8, 4 * shares)))
    found, threads = None, _MAX_THREADS
    while threads >= _MIN_THREADS:
        limit = max(threads // (across * c.channel_units * shares), 1)
        tiles = range(-(-rows // limit), rows + 1)
        made = (replace(c, area=(-(-rows // count), across)) for count in tiles)
        found = next((tiled for tiled in made if tiled.shared_floats <= _MAX_SHARED_FLOATS), None)
        if found is None or _blocks(found, images, rows, columns) >= _MIN_BLOCKS:
            break
        threads //= 2
    if found is None or found.threads > _MAX_THREADS:
        return None
    while found.chunk < filters:
        larger = replace(found, chunk=min(2 * found.chunk, filters))
        # When a block copies to shared memory, each thread handles four filters of the chunk (one
        # if not `wide`), so the block needs at least `lanes` threads.
        lanes = larger.chunk // (4 if c.wide else 1)
        if larger.shared_floats > _MAX_SHARED_FLOATS or lanes > larger.threads:
            break
        found = larger
    return found


def _blocks(c: DirectInputs, images: int, rows: int, columns: int) -> int:
    return images * -(-rows // c.area[0]) * -(-columns // (c.area[1] * c.cells))
