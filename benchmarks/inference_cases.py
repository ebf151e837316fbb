"""The networks and images of bench_inference.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """Images of a network: their number, their shape (H, W, C), and how many a call takes."""

    count: int
    shape: tuple[int, int, int]
    batch_size: int


CASES = {
    "lenet": Case(4000, (28, 28, 1), 64),
    "resnet20": Case(512, (32, 32, 3), 64),
    "mobilenetv2": Case(64, (224, 224, 3), 16),
    "resnet50": Case(32, (224, 224, 3), 16),
}
