"""The command line of the soak."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forked import Commands

from soak.table import write_table
from soak.training import CASES, Found, Place, Training

# Errors after which the soak ends.
_MAX_FOUND = 20
_DISK = "24m"


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for the trainings and the results")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--only", type=int, help="number of the only training")
    parser.add_argument("--table", type=Path, help="write the result to this Markdown file")
    parser.add_argument("--keep", action="store_true", help="only write the table of a result")
    options = parser.parse_args()
    results = options.folder / "trials.jsonl"
    if not options.keep:
        for disk in options.folder.glob("job */disk"):
            _unmount(disk)
        shutil.rmtree(options.folder, ignore_errors=True)
        options.folder.mkdir(parents=True)
        with results.open("w") as file:
            _Soak(options, file).execute()
    return write_table(results, options.table)


class _Soak:
    def __init__(self, options: argparse.Namespace, file: Any) -> None:
        self.options, self.file = options, file
        # A busy machine may be slow, and no test of the soak depends on the time.
        os.environ["CNNFORGE_PATIENCE"] = "1200"
        self.begun = time.monotonic()
        self.end = self.begun + 60 * options.minutes
        self.next, self.found = 0, 0
        self.cases: set[str] = set()
        self.lock = threading.Lock()

    def execute(self) -> None:
        self.write(
            "begun",
            minutes=self.options.minutes,
            seed=self.options.seed,
            jobs=self.options.jobs,
            date=time.strftime("%Y-%m-%d"),
        )
        # Trainings that have begun are finished.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(self, "end", 0.0))
        jobs = [
            threading.Thread(target=self.job, args=(number,)) for number in range(self.options.jobs)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        self.write("ended", seconds=time.monotonic() - self.begun)

    def write(self, kind: str, **values: Any) -> None:
        self.file.write(json.dumps({"kind": kind, **values}) + "\n")
        self.file.flush()

    def job(self, number: int) -> None:
        folder = self.options.folder.absolute() / f"job {number}"
        folder.mkdir()
        commands = Commands(_made(folder / "commands"))
        disk = _mounted(folder / "disk")
        try:
            place = Place(folder, commands, disk)
            while time.monotonic() < self.end and self.found < _MAX_FOUND:
                with self.lock:
                    self.next += 1
                    count = self.next if self.options.only is None else self.options.only
                self.train(place, count)
                if self.options.only is not None:
                    break
                for path in commands_of(folder):
                    shutil.rmtree(path, ignore_errors=True)
        finally:
            commands.close()
            if disk is not None:
                _unmount(disk)

    def train(self, place: Place, count: int) -> None:
        training = Training(place, CASES[(count - 1) % len(CASES)], count, self.options.seed)
        begun = time.monotonic()
        try:
            training.execute()
        except Exception as error:
            if not isinstance(error, Found):
                traceback.print_exc()
            self.found += 1
            with self.lock:
                self.write("found", training=count, what=f"{type(error).__name__}: {error}")
            print(f"training {count} ({training.case.name}): {error}", file=sys.stderr, flush=True)
            print(f"files: {training.output}", file=sys.stderr, flush=True)
        else:
            training.remove()
        with self.lock:
            for trial in training.trials:
                self.write("trial", **asdict(trial))
            case, seconds = training.case, time.monotonic() - begun
            whole = place.known.get(case.name)
            if whole is not None and case.name not in self.cases:
                self.cases.add(case.name)
                batches, options = whole.batches, case.options
                self.write("whole", case=case.name, options=options, batches=batches)
            at = time.monotonic() - self.begun
            self.write("training", number=count, case=case.name, seconds=seconds, at=at)
            names = ", ".join(trial.fault for trial in training.trials if not trial.late)
            print(f"{count} {case.name} {seconds:.0f} s: {names}", flush=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def commands_of(folder: Path) -> list[Path]:
    """List the folders with the output of commands that have ended."""
    return [path for path in (folder / "commands").iterdir() if path.is_dir()]


def _mounted(folder: Path) -> Path | None:
    """Mount a small disk in memory; only root may do this."""
    if os.geteuid() != 0 or sys.platform != "linux":
        return None
    folder.mkdir()
    with suppress(OSError):
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(folder)]
        if not subprocess.run(command, check=False, capture_output=True).returncode:
            return folder
    return None


def _unmount(folder: Path) -> None:
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=False)


if __name__ == "__main__":
    sys.exit(main())
