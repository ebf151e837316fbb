"""The epoch of training: with our kernels in PyTorch, and, where Keras is, in our own loop."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from gpu.suite import ROOT, environment

_NAME = "epoch of lenet, batch 1024, images on the device"
_LOOP = "the same by cnnforge's loop, under Keras' torch backend"
# A CPU takes seconds for what a GPU takes milliseconds for.
_DRY = {"where": "cpu", "graphs": False, "rounds": 3, "images": 1024}


def in_pytorch(device: Any, dry: bool, left: float | None) -> tuple[float | None, list[str]]:
    """Measure an epoch of a PyTorch network with our blocks.

    Args:
        device: runs our calls.
        dry: on the CPU.
        left: seconds; ``None`` without a limit.

    Returns:
        How many times as fast as eager PyTorch, where it was measured, and lines to print.
    """
    if left is not None and left < 25:
        return None, [f"{_NAME}: not run: no time was left"]
    if find_spec("torch") is None:
        return None, [f"{_NAME}: not run: PyTorch is not installed"]
    try:
        from gpu.torch_epoch import measure

        measured = measure(device, **(_DRY if dry else {}))
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return None, [f"{_NAME}: FAILED: {said}"]
    return measured["ratio"], [_NAME, *(f"  {line}" for line in measured["lines"])]


def in_keras(left: float | None) -> list[str]:
    """Measure an epoch as ``cnnforge train`` runs it; returns lines to print.

    Its kernels are launched one by one: this loop captures no graph.
    """
    if find_spec("keras") is None:
        return [f"{_LOOP}: not run: Keras is not installed"]
    script = ROOT / "benchmarks" / "bench_training.py"
    made = [sys.executable, str(script), "lenet", "--batch-size", "1024", "--rounds", "5"]
    try:
        done = subprocess.run(
            made,
            env=environment(KERAS_BACKEND="torch"),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=left,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"{_LOOP}: not run: no time was left"]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [f"{_LOOP}: not run: {last}"]
    return [_LOOP, *(f"  {line.strip()}" for line in done.stdout.splitlines() if line.strip())]
