"""Run one engine with one network, in a process of its own, whenever the parent process asks.

The parent, bench_inference.py, sends a line of JSON for each turn, and gets a line with the times.
Between two turns the process waits for its input and uses no processor time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from inference_engines import ENGINES, PredictAll

# A setting is chosen by the best of this many runs.
_TRIALS = 3


def main() -> None:
    request = json.loads(sys.argv[1])
    # An engine may print. Its lines must not be taken for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    images = np.load(request["images"])
    engine = ENGINES[request["engine"]](
        Path(request["folder"]), request["network"], request["threads"]
    )
    settings, runs = {}, {}
    for mode, batch_size in request["batch_sizes"].items():
        choice = engine.predictions(images, batch_size)
        settings[mode], runs[mode], outputs = choose(choice)
        np.save(request["outputs"][mode], outputs)
    answer(answers, {"facts": engine.facts(), "settings": settings})
    for line in sys.stdin:
        turn = json.loads(line)
        answer(answers, {"times": times(runs[turn["mode"]], turn["seconds"])})


def choose(choice: dict[str, PredictAll]) -> tuple[str, PredictAll, np.ndarray]:
    """Return the fastest setting, its function, and the outputs that it computes."""
    outputs = {name: run() for name, run in choice.items()}
    best = {name: min(times(run, 0) for _ in range(_TRIALS)) for name, run in choice.items()}
    name = min(best, key=lambda each: best[each])
    return name, choice[name], outputs[name]


def times(run: PredictAll, seconds: float) -> list[float]:
    """Return the times of runs, in seconds; they take `seconds` together, or are only one run."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return found


def answer(answers: TextIO, value: Any) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
