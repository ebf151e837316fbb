"""Check that the time of a layer grows linearly with the batch size, from 16 to 4096 images.

Run ``python benchmarks/bench_scaling.py``. Every round times each batch size once. For each batch
size, the time per image is compared with the median over all batch sizes. If the time of our layer
differs from the median by more than 15 %, the line is marked and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from layer_cases import build

PAIRS = ("seed1.block", "cifar.block")
BATCHES = tuple(2**power for power in range(4, 13))
ALLOWED = 0.15


def deviations(per_image: Sequence[float]) -> list[float]:
    """Return the relative difference of each time from the median: 0.1 is 10 % more."""
    median = float(np.median(per_image))
    return [cost / median - 1 for cost in per_image]


def measure(pair: str, implementation: str, which: str, options: Any) -> list[float]:
    """Return the microseconds per image for each batch size in ``options.batches``."""
    from dataclasses import replace

    from cnnforge.benchmarking import interleave
    from cnnforge.conversion.workloads import timed_passes
    from cnnforge.plugin_host.discovery import discover

    whole = build(pair, discover().layers).workload
    timed = {}
    for batch in options.batches:
        workload = replace(whole, shape=(batch, *whole.shape[1:]))
        kind = workload.kind if implementation == "ours" else workload.reference
        timed[str(batch)] = getattr(timed_passes(workload, kind), which)
    _, times = interleave(timed, rounds=options.rounds, seconds=0.01, limit=options.limit)
    # Use the median of the faster half of the times. Other processes interrupt a long call more
    # often than a short one, so the median of all times would be too large for large batches.
    best = {
        name: np.median(np.sort(seconds)[: max(1, len(seconds) // 2)])
        for name, seconds in times.items()
    }
    return [float(best[str(batch)]) / batch * 1e6 for batch in options.batches]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time an image in batches of different sizes.")
    parser.add_argument("pairs", nargs="*", default=PAIRS, metavar="PAIR")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for each table")
    options: Any = parser.parse_args(arguments)
    from cnnforge.cli._import_keras import import_keras

    import_keras()
    failed = 0
    for pair in options.pairs:
        for which in ("forward", "full"):
            print(f"\n{pair}, {which}: microseconds per image")
            columns = {name: measure(pair, name, which, options) for name in ("ours", "framework")}
            off = {name: deviations(values) for name, values in columns.items()}
            print("| batch | ours | from the median | framework | from the median |")
            print("|---|---|---|---|---|")
            for row, batch in enumerate(options.batches):
                mark = " !" if abs(off["ours"][row]) > ALLOWED else ""
                failed += bool(mark)
                cells = [
                    cell
                    for name in columns
                    for cell in (f"{columns[name][row]:.2f}", f"{off[name][row]:+.0%}")
                ]
                print(f"| {batch} | {' | '.join(cells)} |{mark}", flush=True)
    print(f"\n{failed} batches differ from the median by more than {ALLOWED:.0%}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
