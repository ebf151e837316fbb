"""Describe the work of a layer: the operations and bytes that its passes need at least."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """The minimum number of operations and bytes that one pass of a layer requires.

    Count each tensor as read or written once. Do not count results that need no computation, such
    as the gradient of a pixel that is not the maximum of any pooling window. The work is therefore
    the same for every implementation. From it, `cnnforge bench` computes which fraction of the
    machine's peak speed an implementation reaches.

    Args:
        flops: Number of additions, multiplications and comparisons.
        bytes: Number of bytes that are read and written.
    """

    flops: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)
