"""Define the peak rates of a device, and the *floor*: the minimum time of a benchmark case.

The floor follows from the peak rates, and from the bytes and operations of the case.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpu.rows import Row, work


@dataclass(frozen=True)
class Ceilings:
    """Peak rates of a device.

    Attributes:
        bytes: Bytes per second, read and written.
        float32: Operations per second in float32, without tensor cores.
        tf32: Operations per second of the tensor cores in tf32.
        bfloat16: Operations per second of the tensor cores in bfloat16.
    """

    bytes: float
    float32: float
    tf32: float
    bfloat16: float


# Rates in NVIDIA's datasheet of the H200 (SXM), without sparsity. Only dry runs and estimates use
# these; a measurement on a device also measures the rates.
H200 = Ceilings(4.8e12, 67e12, 495e12, 990e12)


@dataclass(frozen=True)
class Floor:
    """Minimum time of a benchmark case.

    Attributes:
        seconds: The time in seconds.
        bound: Limit that determines the time: ``"bytes"`` or ``"flops"``.
    """

    seconds: float
    bound: str


def floor(row: Row, ceilings: Ceilings) -> Floor:
    """Return the minimum time of a row: the larger of the times for its bytes and operations."""
    needed = work(row)
    moving = needed.bytes / ceilings.bytes
    computing = needed.flops / getattr(ceilings, row.precision)
    return Floor(max(moving, computing), "bytes" if moving >= computing else "flops")
