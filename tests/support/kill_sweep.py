"""Kill a sweep ten times at random moments, and compare it with one that was not interrupted.

`make sweep-kills` runs this. All trials must be equal: their values, states, metrics of each epoch,
and the number of run directories.

    python tests/support/kill_sweep.py FOLDER [KILLS] [SEED]
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TRIALS = 10
SPACE = ("learning_rate=1e-3..3e-2", "batch_size=16..64", "optimizer=adam,sgd")


def write_pictures(folder: Path, count: int = 60) -> None:
    """Write pictures of three classes: a bright row, a bright column, or neither."""
    draws = np.random.default_rng(0)
    for label in ("column", "none", "row"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels, at = draws.integers(0, 100, (12, 12)), int(draws.integers(1, 11))
            if label == "row":
                pixels[at] += 150
            elif label == "column":
                pixels[:, at] += 150
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / label / f"{number}.png")


def start(folder: Path, output: Path, log: Any) -> subprocess.Popen[bytes]:
    program = str(Path(sys.executable).with_name("cnnforge"))
    command = [program, "sweep", "lenet", "--data", str(folder / "data")]
    options = ["--epochs", "4", "--trials", str(TRIALS), "--kernels", "keras"]
    for each in SPACE:
        options += ["--space", each]
    return subprocess.Popen(
        [*command, *options, "--output", str(output)],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def trials_of(output: Path) -> list[tuple[Any, ...]]:
    """Return number, state, values, value and metrics of the epochs of each trial."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(output / "journal.log")))
    study = optuna.load_study(study_name="sweep", storage=storage)
    return [
        (t.number, t.state.name, t.params, t.value, t.intermediate_values) for t in study.trials
    ]


def epochs_of(output: Path) -> int:
    """Return a number that grows with every epoch of every trial."""
    sizes = 0
    for path in output.glob("*/metrics.csv"):
        with contextlib.suppress(OSError):
            sizes += path.stat().st_size
    return sizes


def kill_at_random(process: subprocess.Popen[bytes], output: Path, draws: random.Random) -> bool:
    """Kill a sweep, soon after its start or during a trial. Return whether it was still running."""
    if draws.random() < 0.8:
        # The process has begun to train when an epoch has ended.
        before = epochs_of(output)
        while process.poll() is None and epochs_of(output) == before:
            time.sleep(0.01)
    end = time.monotonic() + draws.uniform(0, 4)
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.005)
    running = process.poll() is None
    if draws.random() < 0.5:
        process.kill()
    else:
        # The processes of its trials, too.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running


def check(folder: Path, kills: int, seed: int) -> int:
    shutil.rmtree(folder, ignore_errors=True)
    write_pictures(folder / "data")
    with (folder / "log.txt").open("wb") as log:
        if start(folder, folder / "whole", log).wait():
            raise SystemExit(f"the sweep failed; see {log.name}")
        draws = random.Random(seed)
        for number in range(1, kills + 1):
            output = folder / "killed"
            running = kill_at_random(start(folder, output, log), output, draws)
            known = trials_of(output) if (output / "journal.log").exists() else []
            ended = sum(each[1] != "RUNNING" for each in known)
            print(f"kill {number}: {'' if running else 'after its end, '}{ended} ended", flush=True)
        if start(folder, folder / "killed", log).wait():
            raise SystemExit(f"the killed sweep could not be continued; see {log.name}")
    whole, killed = trials_of(folder / "whole"), trials_of(folder / "killed")
    runs = len(list((folder / "killed").glob("*/config.toml")))
    for one, other in zip(whole, killed, strict=True):
        print("equal " if one == other else "DIFFER", *one[:2], one[3], other[3], one[2])
    print(f"{kills} kills, {len(killed)} trials, {runs} run directories")
    return 0 if whole == killed and runs == TRIALS else 1


if __name__ == "__main__":
    arguments = sys.argv[2:]
    sys.exit(
        check(
            Path(sys.argv[1]),
            int(arguments[0]) if arguments else 10,
            int(arguments[1]) if arguments[1:] else 0,
        )
    )
