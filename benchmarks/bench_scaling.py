"""Whether the cost grows linearly: the time for an image, in batches of 16 to 4096.

Run ``python benchmarks/bench_scaling.py``. Every batch takes its turn in every round. What a batch
costs by image is compared with the middle of all batches; beyond 15 % the line is marked, and the
exit code is 1.
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
    """How far the cost of an image is from the middle, for each batch: 0.1 is 10 % more."""
    middle = float(np.median(per_image))
    return [it / middle - 1 for it in per_image]


def measure(pair: str, implementation: str, which: str, options: Any) -> list[float]:
    """Microseconds for an image, for each batch."""
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
    # The middle of the better half: a batch of a second meets whatever else runs, one of a
    # millisecond may not.
    best = {name: np.median(np.sort(it)[: max(1, len(it) // 2)]) for name, it in times.items()}
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
            print(f"\n{pair}, {which}: microseconds for an image")
            columns = {it: measure(pair, it, which, options) for it in ("ours", "framework")}
            off = {name: deviations(values) for name, values in columns.items()}
            print("| batch | ours | off the middle | framework | off the middle |")
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
    print(f"\n{failed} batches are more than {ALLOWED:.0%} off")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
