"""Define the rows of bench_gpu.py. A row is one benchmark case, a line of the table of results.

A row consists of a shape of cases.py (a *case*, with SAME padding), an op, a pass, a batch size and
a precision. Its key is ``case.op.pass``. If the batch size differs from that in cases.py,
``@batch`` follows the case. If the precision is not float32, ``.tf32`` or ``.bfloat16`` is added at
the end. Example: ``r64@256.convolution.forward.tf32``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod

from cases import CONVOLUTIONS, DEPTHWISE, POOLS

Shape = tuple[int, ...]

LARGE = 4096
LARGE_BLOCKS = ("seed1", "seed2", "seed7", "cifar")
TENSOR_CORES, TENSOR_CORE_BATCH = ("r64", "r128"), 256
GRADIENTS = ("grad_inputs", "grad_weights")


@dataclass(frozen=True)
class Row:
    """One benchmark case.

    Attributes:
        case: Name of the shape in cases.py.
        op: ``"convolution"``, ``"depthwise"``, ``"block"`` (convolution, bias, ReLU and a max pool
            of 2x2), ``"max"`` or ``"average"`` (pools).
        which: Pass: ``"forward"`` (all ops), ``"grad_inputs"`` or ``"grad_weights"``
            (convolutions), ``"full"`` (blocks: forward and all gradients) or ``"backward"``
            (pools).
        inputs: Shape of the inputs, (N, H, W, C).
        weights: Shape of the weights: (KH, KW, C, F); (KH, KW, C, 1) for a depthwise convolution;
            ``()`` for a pool.
        stride: Stride of the convolution.
        grad_inputs: Whether the pass ``full`` computes the gradient of the inputs, which the first
            layer of a network does not need.
        precision: ``"float32"``, ``"tf32"`` or ``"bfloat16"``.
        batch: N if it differs from the batch size in cases.py, otherwise ``None``.
    """

    case: str
    op: str
    which: str
    inputs: Shape
    weights: Shape = ()
    stride: int = 1
    grad_inputs: bool = True
    precision: str = "float32"
    batch: int | None = None

    @property
    def key(self) -> str:
        """Name of the row, such as ``r64@256.convolution.forward.tf32``."""
        at = "" if self.batch is None else f"@{self.batch}"
        precision = "" if self.precision == "float32" else f".{self.precision}"
        return f"{self.case}{at}.{self.op}.{self.which}{precision}"

    @property
    def filters(self) -> int:
        """Number of channels of the outputs."""
        if self.op in ("convolution", "block"):
            return self.weights[3]
        return self.inputs[3]

    @property
    def convolved(self) -> Shape:
        """Shape of the outputs of the convolution, (N, OH, OW, F); for a pool, of its inputs."""
        rows, columns = (-(-size // self.stride) for size in self.inputs[1:3])
        return (self.inputs[0], rows, columns, self.filters)

    @property
    def outputs(self) -> Shape:
        """Shape of the outputs."""
        if self.op in ("convolution", "depthwise"):
            return self.convolved
        images, rows, columns, filters = self.convolved
        return (images, rows // 2, columns // 2, filters)

    @property
    def large(self) -> bool:
        """Whether the row uses a larger batch than cases.py."""
        return self.batch is not None

    def with_batch(self, images: int) -> Row:
        """Return the row with another number of images."""
        return replace(self, inputs=(images, *self.inputs[1:]), batch=images)


def _rows() -> tuple[Row, ...]:
    blocks, convolutions, tensor_cores, pools = [], [], [], []
    for case in CONVOLUTIONS:
        row = Row(
            *(case.name, "block", "forward", case.input_shape, case.weights_shape, case.stride),
            grad_inputs=not case.first_layer,
        )
        blocks += [row, replace(row, which="full")]
        plain = replace(row, op="convolution", grad_inputs=True)
        convolutions += [replace(plain, which=which) for which in ("forward", *GRADIENTS)]
        if case.name in TENSOR_CORES:
            large = plain.with_batch(TENSOR_CORE_BATCH)
            tensor_cores += [
                replace(large, which=which, precision=precision)
                for precision in ("tf32", "bfloat16")
                for which in ("forward", *GRADIENTS)
            ]
    for case in DEPTHWISE:
        weights = (case.window, case.window, case.channels, 1)
        row = Row(case.name, "depthwise", "forward", case.input_shape, weights)
        convolutions += [replace(row, which=which) for which in ("forward", *GRADIENTS)]
    for case in POOLS:
        for op in ("max", "average"):
            row = Row(case.name, op, "forward", case.input_shape)
            pools += [row, replace(row, which="backward")]
    large_blocks = [row.with_batch(LARGE) for row in blocks if row.case in LARGE_BLOCKS]
    large_pools = [row.with_batch(LARGE) for row in pools if row.case != "pool_stem"]
    # The rows that the goals need come first, because a time limit may leave out the last rows.
    return (*large_blocks, *convolutions, *tensor_cores, *large_pools, *pools, *blocks)


ROWS = _rows()
# Keys of the rows that ``--short`` measures: a few of each op, in two minutes.
SHORT = (
    "seed1@4096.block.forward",
    "seed2@4096.block.full",
    "seed2.convolution.*",
    "mid.convolution.*",
    "depth.depthwise.forward",
    "r64@256.convolution.forward.*",
    "r128@256.convolution.grad_weights.tf32",
    "pool_seed1@4096.max.*",
    "pool_cifar@4096.average.forward",
)


def select(patterns: Sequence[str], rows: Sequence[Row] = ROWS) -> list[Row]:
    """Return the rows that match at least one pattern, in the order of ``rows``.

    Args:
        patterns: Each is the name of a case (``seed1``, which matches any batch size), a key, or a
            key with ``*``.
        rows: Rows to choose from.

    Raises:
        ValueError: A pattern matches no row.
    """
    found = set()
    for pattern in patterns:
        named = {row for row in rows if pattern == row.case or fnmatchcase(row.key, pattern)}
        if not named:
            cases = ", ".join(dict.fromkeys(row.case for row in rows))
            raise ValueError(
                f"{pattern!r} names no row. Expected a case ({cases}), or a key such as "
                f"{rows[0].key}, which may hold *"
            )
        found |= named
    return [row for row in rows if row in found]


@dataclass(frozen=True)
class Work:
    """Minimum work of a row: number of operations, and number of bytes read and written."""

    flops: int
    bytes: int


def work(row: Row) -> Work:
    """Return the minimum operations and bytes of a row, if each tensor is read or written once.

    Tensors are float32, and an argmax has one byte. A multiply-add counts as two operations, and
    each element of a pooling window as one. The backward passes of a block count only a quarter of
    the products, because after a 2x2 max pool the gradient is zero for three pixels in four.
    ``cnnforge.benchmarking.work`` counts in the same way for Keras layers.
    """
    inputs, outputs, weights = prod(row.inputs), prod(row.outputs), prod(row.weights)
    if row.op in ("max", "average"):
        argmax = outputs if row.op == "max" else 0
        if row.which == "forward":
            # The argmax does not count here, because only the gradient needs it.
            return Work(4 * outputs, 4 * (inputs + outputs))
        flops = outputs if row.op == "max" else 4 * outputs
        return Work(flops, 4 * (inputs + outputs) + argmax)
    products = 2 * prod(row.convolved[:3]) * weights
    if row.op != "block":
        # The bytes are the same for all passes: each reads two of these tensors (or their
        # gradients) and writes the third.
        return Work(products, 4 * (inputs + outputs + weights))
    weights += row.filters  # A block also reads a bias, with one value per filter.
    forward = Work(products + 4 * outputs, 4 * (inputs + weights + outputs))
    if row.which == "forward":
        return forward
    passes = 1 + row.grad_inputs
    moved = outputs + inputs + weights + (inputs + weights if row.grad_inputs else 0)
    return Work(forward.flops + passes * products // 4, forward.bytes + 4 * moved + outputs)
