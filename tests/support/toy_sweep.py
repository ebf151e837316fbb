"""A sweep whose trials take milliseconds. `python toy_sweep.py FOLDER TRIALS` runs one."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnforge.sweeping.local import LocalProcesses
from cnnforge.sweeping.processes import Process
from cnnforge.sweeping.results import SweepResult, result_of
from cnnforge.sweeping.space import read_space
from cnnforge.sweeping.storage import claimed, open_study
from cnnforge.sweeping.trials import Executor, Sweep
from cnnforge.tasks import Metric

SPACE = ["learning_rate=1e-4..3e-2", "batch_size=16..64", "optimizer=adam,sgd"]
TRAINER = Path(__file__).with_name("toy_trainer.py")
ACCURACY = Metric("accuracy", "accuracy", "acc", percent=True)


def run(
    folder: Path,
    trials: int,
    *,
    space: list[str] = SPACE,
    parallel: int = 1,
    executor: Executor | None = None,
    prune: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
    lines: list[str] | None = None,
    options: dict[str, Any] | None = None,
) -> SweepResult:
    """Run a sweep, or continue it, and return its result."""
    dimensions = read_space(space)
    tell = (lambda line: None) if lines is None else lines.append
    described = {
        "options": {"epochs": 4, **(options or {})},
        "space": {each.name: each.text for each in dimensions},
        "direction": "maximize",
    }
    with claimed(folder) as lock:
        study, storage = open_study(folder, described, tell)
        sweep = Sweep(
            folder=folder,
            space=dimensions,
            options=described["options"],
            study=study,
            storage=storage,
            metric="accuracy",
            shown=ACCURACY.text,
            seed=0,
            prune=prune,
            tell=tell,
        )
        start = functools.partial(Process, [str(TRAINER)], folder, lock, None)
        sweep.run(executor or LocalProcesses(start, parallel), trials, should_stop)
        return result_of(folder, study, ACCURACY)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
