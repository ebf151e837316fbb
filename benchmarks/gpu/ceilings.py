"""Peak rates of a device, and the *floor* of a row: the minimum time that follows from them."""

from __future__ import annotations

from dataclasses import dataclass

from gpu.rows import Row, work


@dataclass(frozen=True)
class Ceilings:
    """Peak rates of a device.

    Attributes:
        bytes: Bytes per second, read and written.
        float32: Operations per second of the ordinary units.
        tf32: Operations per second of the tensor cores in tf32.
        bfloat16: Operations per second of the tensor cores in bfloat16.
    """

    bytes: float
    float32: float
    tf32: float
    bfloat16: float


# NVIDIA's datasheet of the H200 (SXM), rates without sparsity. Results use measured rates instead.
H200 = Ceilings(4.8e12, 67e12, 495e12, 990e12)


@dataclass(frozen=True)
class Floor:
    """Minimum time of a row in seconds, and its cause (``bound``): "bytes" or "flops"."""

    seconds: float
    bound: str


def floor(row: Row, ceilings: Ceilings) -> Floor:
    """Compute the minimum time: the larger of the time for the bytes and for the operations."""
    needed = work(row)
    moving = needed.bytes / ceilings.bytes
    computing = needed.flops / getattr(ceilings, row.precision)
    return Floor(max(moving, computing), "bytes" if moving >= computing else "flops")
