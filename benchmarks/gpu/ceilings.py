"""What a device can do at most, measured or as its maker publishes it, and floors from that."""

from __future__ import annotations

from dataclasses import dataclass

from gpu.rows import Row, work


@dataclass(frozen=True)
class Ceilings:
    """Attributes: bytes (read and written) and operations per second.

    ``float32`` is that of the ordinary units, the other two that of the tensor cores.
    """

    bytes: float
    float32: float
    tf32: float
    bfloat16: float


# NVIDIA's datasheet of the H200 (SXM), dense rates: for predictions, never for results.
H200 = Ceilings(4.8e12, 67e12, 495e12, 990e12)


@dataclass(frozen=True)
class Floor:
    """The least time of a row, in seconds, and ``bound``: ``"bytes"`` or ``"flops"``."""

    seconds: float
    bound: str


def floor(row: Row, ceilings: Ceilings) -> Floor:
    """No implementation takes less time than moving the bytes, nor than computing takes."""
    needed = work(row)
    moving = needed.bytes / ceilings.bytes
    computing = needed.flops / getattr(ceilings, row.precision)
    return Floor(max(moving, computing), "bytes" if moving >= computing else "flops")
