"""Check each mutant 20 times: `make mutants`. A mutant that is missed once was found by chance.

The test suite checks each mutant once. Here all runs share one process, which prints what was
missed, and the CPU time of each mutant.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from mutant_layers import MUTANTS, Mutant

from cnnforge.ops.audit import traces
from cnnforge.testing import layer_checks

# Limit of the time of one function of an op, in seconds; the layer that never ends waits for it.
TIME_LIMIT = 0.5


def failures(mutant: Mutant) -> list[tuple[str, str]]:
    """Run the checks of a mutant, and return the kind and the message of each that failed."""
    failed = []
    for check in layer_checks(mutant.kind, mutant.cases, reference=mutant.reference):
        if check.kind == "save_and_load" and mutant.check != "save_and_load":
            continue  # It takes seconds, and never says a cause first.
        status, message = check.result()
        if status == "failed":
            failed.append((check.kind, message))
    return failed


def fault(mutant: Mutant, failed: list[tuple[str, str]]) -> str | None:
    """Return what is wrong with the report about a mutant, or `None`."""
    if not failed:
        return "no check failed"
    (first, message), *others = failed
    if first != mutant.check:
        return f"{first} failed first, expected {mutant.check}: {message}"
    missing = [word for word in mutant.words if word not in message]
    if missing:
        return f"the message lacks {missing}: {message}"
    if [kind for kind, _ in others] != list(mutant.besides):
        return f"these failed too: {others}"
    return None


def main() -> int:
    """Run all mutants, and return 1 if a report about one of them was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="times that each mutant is checked")
    options = parser.parse_args()
    traces.TIME_LIMIT = TIME_LIMIT
    caught: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for run in range(options.runs):
        for name, mutant in MUTANTS.items():
            begun = time.process_time()
            wrong = fault(mutant, failures(mutant))
            seconds[name] += time.process_time() - begun
            caught[name] += wrong is None
            if wrong is not None:
                print(f"run {run + 1}: {name}: {wrong}", flush=True)
        print(f"run {run + 1}: {sum(seconds.values()):.0f} s of CPU time so far", flush=True)
    for name in sorted(MUTANTS, key=lambda name: -seconds[name]):
        print(f"{name:32} {caught[name]} of {options.runs}  {seconds[name] / options.runs:6.2f} s")
    return int(any(count < options.runs for count in caught.values()))


if __name__ == "__main__":
    sys.exit(main())
