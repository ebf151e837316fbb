"""Compare 20 pairs of runs that differ only in the seed, and one pair that differs in its epochs.

`make compare-seeds` runs this. At a level of 5 %, one false alarm in 20 pairs is expected, and more
than three are unlikely (1.6 %). The folder keeps its runs, so a second call continues.

    python tests/support/seed_pairs.py FOLDER
"""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cnnforge.cli import main

PAIRS = 20
MAX_FALSE_ALARMS = 3


def train(folder: Path, *options: str) -> None:
    program = str(Path(sys.executable).with_name("cnnforge"))
    command = [program, "train", "lenet", "--kernels", "keras", "--image-size", "14"]
    where = ["--split-seed", "0", "--no-thumbnails", "--output", str(folder)]
    subprocess.run([*command, *where, *options], check=True, stdout=subprocess.DEVNULL)


def compared(first: Path, second: Path) -> dict[str, Any]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
        assert main(["compare", str(first), str(second), "--json"]) == 0
    return json.loads(text.getvalue())


def check(folder: Path) -> int:
    train(folder / "seeds", "--epochs", "6", "--repeat", str(2 * PAIRS))
    runs = sorted((folder / "seeds").glob("lenet-*"))
    alarms = 0
    for first, second in zip(runs[::2], runs[1::2], strict=True):
        found = compared(first, second)
        alarms += found["differ"]
        print(f"{first.name} {second.name}: {found['verdict']}", flush=True)
    for epochs in ("2", "20"):
        train(folder / epochs, "--epochs", epochs, "--repeat", "1")
    few, many = (next((folder / epochs).glob("lenet-*")) for epochs in ("2", "20"))
    last = compared(few, many)
    print(f"2 and 20 epochs: {last['verdict']}")
    print(f"{alarms} false alarms in {PAIRS} pairs, {MAX_FALSE_ALARMS} are allowed")
    return 0 if alarms <= MAX_FALSE_ALARMS and last["differ"] else 1


if __name__ == "__main__":
    sys.exit(check(Path(sys.argv[1])))
