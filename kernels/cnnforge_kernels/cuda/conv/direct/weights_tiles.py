"""Constants of the kernels of ``direct/weights.py``, and the choice of their tile for a shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cnnforge_kernels.cuda.conv.specialization import ConvSpecialization, size_of
from cnnforge_kernels.cuda.runtime.plans import MULTIPROCESSORS

# Maximum number per thread of sums, of products in the innermost loop, and of inputs in registers
# during that loop. Above these limits the compiler does not unroll the innermost loop, and then the
# arrays of the loop are in local memory instead of registers.
_MAX_SUMS, _MAX_PRODUCTS, _MAX_PATCH_FLOATS = 64, 320, 40
_MAX_UNITS, _MAX_THREADS = 192, 256
# 40 KiB. A block may use 48 KiB, but with less memory more blocks fit on a multiprocessor.
_MAX_SHARED_FLOATS = 10240
_MAX_COLUMNS = 64
MAX_SLICES = 512
# Eight warps hide each other's latency, so `_time` assumes that more warps do not make a
# multiprocessor faster.
_MAX_USEFUL_WARPS = 8
# Estimated number of instructions per tile that do not depend on the size of the tile.
_TILE_COST = 400


def _line(floats: int) -> int:
    """Round up a number of floats to an odd number of quads (four floats).

    Rows of this length begin in different banks, so a warp can read several rows at a time.
    """
    return 4 * (-(-floats // 4) | 1)


@dataclass(frozen=True, kw_only=True)
class DirectWeights(ConvSpecialization):
    """Constants that a kernel of ``direct_weights`` is compiled for.

    Attributes:
        area: Rows and columns of a tile of outputs. They are outputs of the pool if ``pool`` is
            given, otherwise of the convolution. ``with_weights_tile`` chooses the area.
        pool: Rows and columns of the pooling window; ``None`` without pooling.
    """

    area: tuple[int, int] = (1, 1)
    pool: tuple[int, int] | None = None

    @property
    def filter_tile(self) -> int:
        """Number of filters per thread."""
        return 8 if self.filters > 4 and self.window[1] * self.channel_tile * 8 <= _MAX_SUMS else 4

    @property
    def channel_tile(self) -> int:
        """Number of channels per thread."""
        channels = 4 if self.vector == 4 else self.channels
        return channels if self.window[1] * channels * 4 <= _MAX_SUMS else 1

    @property
    def sums(self) -> int:
        """Number of accumulators per thread."""
        return self.window[1] * self.channel_tile * self.filter_tile

    @property
    def filter_units(self) -> int:
        """Number of threads that share the filters."""
        return -(-self.filters // self.filter_tile)

    @property
    def channel_units(self) -> int:
        """Number of threads that share the channels."""
        return -(-self.channels // self.channel_tile)

    @property
    def units(self) -> int:
        """Number of threads that share the sums of all weights of a group."""
        return self.window[0] * self.channel_units * self.filter_units

    def _step_cost(self, step: int) -> int:
        """Estimate the number of products and loads of a thread for a step of ``step`` pixels."""
        wide = self.channel_tile == self.vector == 4
        patch = (step - 1) * self.strides[1] + (self.window[1] - 1) * self.dilation[1] + 1
        return step * (self.sums + self.filter_tile // 4) + patch * (
            1 if wide else self.channel_tile
        )

    @property
    def step(self) -> int:
        """Number of pixels that a thread reads per step, at the minimum estimated cost."""
        width = self.area[1] * (self.pool or (1, 1))[1]
        reach = (self.window[1] - 1) * self.dilation[1] + 1
        fitting = [
            step
            for step in (4, 2)
            if ((step - 1) * self.strides[1] + reach) * self.channel_tile <= _MAX_PATCH_FLOATS
            and step * self.sums <= _MAX_PRODUCTS
        ]
        return min([*fitting, 1], key=lambda step: -(-width // step) * self._step_cost(step))

    @property
    def cost(self) -> int:
        """Estimated number of instructions that the warps of a block issue for a tile."""
        passes, steps = -(-self.cells[0] // self.segments), self.cells[1] // self.step
        return self.threads * (passes * steps * self._step_cost(self.step) + _TILE_COST)

    @property
    def cells(self) -> tuple[int, int]:
        """Number of rows and columns of convolution outputs per tile.

        The number of columns is rounded up to whole steps.
        """
        down, across = self.pool or (1, 1)
        width = self.area[1] * across
        return self.area[0] * down, -(-width // self.step) * self.step

    @property
    def segments(self) -> int:
        """Number of threads that sum the same weights and share the rows of a tile."""
        passes = -(-self.cells[0] // max(_MAX_THREADS // self.units, 1))
        return -(-self.cells[0] // passes)

    @property
    def threads(self) -> int:
        """Number of threads per block, rounded up to whole warps."""
        return -(-self.segments * self.units // 32) * 32

    @property
    def patch(self) -> tuple[int, int]:
        """Number of rows and columns of inputs that a tile reads."""
        down, across = (
            (self.cells[a] - 1) * self.strides[a] + (self.window[a] - 1) * self.dilation[a] + 1
            for a in (0, 1)
        )
        return down, across

    @property
    def copied_floats(self) -> int:
        """Number of floats in shared memory for the inputs and gradients of a tile."""
        return self.patch[0] * self.input_line + self.cells[0] * self.line

    @property
    def shared_floats(self) -> int:
        """Size of the shared memory in floats."""
        copied = self.copied_floats
        totals = self.threads * (4 if self.wide else 1)
        if self.segments <= 2:
            return max(copied, totals, self.units * self.sums * (self.segments - 1))
        return max(copied, totals, self.threads * self.round_taps * self.sums // self.window[1])

    @property
    def input_line(self) -> int:
        """Number of floats per row of inputs in shared memory."""
        return _line(self.patch[1] * self.channel_units * self.channel_tile)

    @property
    def line(self) -> int:
        """Number of floats per row of gradients in shared memory."""
        return _line(self.cells[1] * self.filter_units * self.filter_tile)

    @property
    def round_taps(self) -> int:
        """Number of taps of a row whose sums the threads add at a time."""
        each = self.threads * self.sums // self.window[1]
        return max(min(_MAX_SHARED_FLOATS // each, self.window[1]), 1)

    @property
    def wide(self) -> bool:
        """Whether four filters are loaded at a time."""
        return self.aligned and self.filters % 4 == 0

    @property
    def name(self) -> str:
        """Name of the kernel, such as ``"conv2d_grad_weights 5x5x1x8 direct 28x28"``."""
        op = "conv_block_grad_weights" if self.pool else "conv2d_grad_weights"
        return self.named(op, size_of("pool", self.pool), size_of("direct", self.area))


def with_weights_tile(
    c: DirectWeights, images: int, rows: int, columns: int
) -> DirectWeights | None:
    """Choose the tile for ``images`` upstream gradients of ``rows`` by ``columns`` pixels.

    Returns:
        The constants with their tile; ``None`` if no tile fits.
    """
    if c.units > _MAX_UNITS or c.sums > _MAX_SUMS:
        return None
    # If an image has no outputs, choose a tile for one output. The kernel then writes zeros.
    rows, columns = max(rows, 1), max(columns, 1)
    parts = -(-columns * (c.pool or (1, 1))[1] // _MAX_COLUMNS)
    found = []
    for area_rows in range(1, rows + 1):
        made = replace(c, area=(area_rows, -(-columns // parts)))
        if made.copied_floats > _MAX_SHARED_FLOATS:
            break
        lanes = c.filter_units * c.filter_tile
        if made.shared_floats <= _MAX_SHARED_FLOATS and lanes <= made.threads:
            found.append((_time(made, images * -(-rows // area_rows) * parts), -area_rows, made))
    return min(found, key=lambda candidate: candidate[:2])[2] if found else None


def _time(c: DirectWeights, tiles: int) -> float:
    """Estimate the time of the fullest multiprocessor, in arbitrary units."""
    count = max(min(tiles, MAX_SLICES), 1)
    each = -(-tiles // count)
    resident = -(-count // MULTIPROCESSORS)
    return resident * each * c.cost / min(resident * c.threads // 32, _MAX_USEFUL_WARPS)
