"""Time an epoch of training: of a PyTorch network with our kernels, and of a Keras model."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from gpu.suite import ROOT, environment

_NAME = "epoch of lenet, batch 1024, images on the device"
_LOOP = "the same by cnnforge's loop, under Keras' torch backend"
# Arguments of `torch_epoch.measure` for a dry run: on the CPU, with few images and rounds.
_DRY_RUN = {"where": "cpu", "graphs": False, "rounds": 3, "images": 1024}


def epoch(device: Any, dry_run: bool) -> dict[str, Any]:
    """Time an epoch of a PyTorch network that uses our kernels. Run this in a separate process.

    Args:
        device: A ``TorchDevice`` or a ``DryRunDevice``, which runs our kernels.
        dry_run: Whether PyTorch runs on the CPU.

    Returns:
        ``ratio``, the time of eager PyTorch divided by ours, and ``lines`` to print.
    """
    from gpu.torch_epoch import measure

    return measure(device, **(_DRY_RUN if dry_run else {}))


def in_pytorch(command: list[str], left: float | None) -> tuple[float | None, list[str]]:
    """Time an epoch of the PyTorch network in a separate process.

    Args:
        command: Command of the process. It prints the result of ``epoch`` as a line of JSON.
        left: Time limit in seconds; ``None`` without a limit.

    Returns:
        The time of eager PyTorch divided by ours (``None`` if it was not measured), and lines to
        print.
    """
    if find_spec("torch") is None:
        return None, [f"{_NAME}: not run: PyTorch is not installed"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=left, check=False
        )
    except subprocess.TimeoutExpired:
        return None, [f"{_NAME}: FAILED: not done in {left:.0f} s"]
    try:
        measured = json.loads((done.stdout.strip().splitlines() or [""])[-1])
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return None, [f"{_NAME}: FAILED: {last[:300]}"]
    return measured["ratio"], [_NAME, *(f"  {line}" for line in measured["lines"])]


def in_keras(left: float | None) -> list[str]:
    """Time an epoch of a Keras model in the training loop of ``cnnforge train``.

    This loop does not capture a CUDA graph, so kernels are launched one by one.

    Args:
        left: Time limit in seconds; ``None`` without a limit.

    Returns:
        Lines to print.
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
        return [f"{_LOOP}: FAILED: not done in {left:.0f} s"]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [f"{_LOOP}: FAILED: {last}"]
    return [_LOOP, *(f"  {line.strip()}" for line in done.stdout.splitlines() if line.strip())]
