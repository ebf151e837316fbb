"""Faults between two processes of a training: damaged files, wrong times, several processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from soak import faults
from soak.faults import Fault, line_of

if TYPE_CHECKING:
    from forked import Running

    from soak.training import Training

_YEAR = 365.25 * 86400


def draw(training: Training) -> None:
    """Draw a fault, cause it, and compare the answer."""
    kinds = (_state, _state, _state, _picture, _picture, _times, _two_at_once, _readers)
    training.draws.choice(kinds)(training)


def _state(training: Training) -> None:
    """Damage the newest state. It is used next."""
    run, draws = training.run, training.draws
    assert run is not None
    states = sorted((run / "last").glob("state-*.ckpt"))
    whole = [path for path in states if path not in training.damaged]
    # If only one was there, the training would begin again, as is documented.
    if len(states) < 2 or len(whole) < len(states):
        return
    path, data = states[-1], bytearray(states[-1].read_bytes())
    kind = draws.choice(("cut", "empty", "garbage", "one bit"))
    if kind == "cut":
        del data[draws.randrange(1, len(data)) :]
    elif kind == "empty":
        data.clear()
    elif kind == "garbage":
        data[:] = draws.randbytes(len(data))
    else:
        data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    path.write_bytes(data)
    training.damaged.add(path)
    # What the last process has saved is lost, also if the next one ends before it reads the states.
    training.stopped_by, training.claims_saved = None, False
    reached = training.reached
    end = Fault("", {"at": draws.randint(4, 40), "signals": (int(signal.SIGTERM),)})
    ended, progress, _ = training.process(end, run)
    line = line_of(ended)
    end.answers = {0: ("",), 143: faults.interrupted(signal.SIGTERM)}
    training.check(end.allows(ended.code, line), f"{kind}: not documented: {line}", ended)
    training.check_files(f"newest state: {kind}", killed=False)
    if line.startswith("error: interrupted") and "is damaged" not in ended.err:
        # The signal came before the states were read.
        return
    note = f"{path} is damaged ("
    training.check(note in ended.err, f"{kind}: the damage is not said", ended)
    training.check("the previous state is used" in ended.err, kind, ended)
    trial = training.add(
        f"newest state: {kind}",
        ended.code if ended.code != 143 else 0,
        "note: ... is damaged (...): the previous state is used",
    )
    if progress.first >= 0:
        trial.lost = max(0, reached - progress.first)
        training.reached = progress.reached
    training.claims_saved = "the state is saved" in line


def _picture(training: Training) -> None:
    """Damage an image: the run must not go on with other data, and must name the image."""
    run, draws = training.run, training.draws
    path = draws.choice(sorted(training.images.rglob("*.png")))
    data, times = path.read_bytes(), path.stat()
    kind = draws.choice(("cut", "garbage", "removed", "replaced", "one bit"))
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "garbage":
        path.write_bytes(draws.randbytes(len(data)))
    elif kind == "removed":
        path.unlink()
    elif kind == "one bit":
        changed = bytearray(data)
        changed[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        path.write_bytes(changed)
    else:
        with Image.open(path) as image:
            pixels = np.array(image)
        Image.fromarray(np.ascontiguousarray(pixels[::-1])).save(path)
    before = _digests(run)
    ended, _, _ = training.process(Fault("", {}), run)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    line = ended.errors[-1] if ended.errors else ""
    name = f"{path.parent.name}/{path.name}"
    fault = Fault("", answers={2: (faults.OTHER_DATA,)})
    training.check(fault.allows(ended.code, line), f"image {kind}: not refused: {line}", ended)
    training.check(name in ended.err, f"image {kind}: {name} is not named", ended)
    training.check(_digests(run) == before, f"image {kind}: the run has changed", ended)
    training.add(f"image {kind}, then put back", ended.code, line).lost = 0
    training.check_files(f"image {kind}", killed=False)


def _digests(run: Path | None) -> dict[Path, bytes]:
    assert run is not None
    # A resumed run first removes what a killed process has left.
    files = (path for path in run.rglob("*") if path.is_file() and "tmp-" not in path.name)
    return {path: path.read_bytes() for path in files}


def _times(training: Training) -> None:
    """Give all files of the run, and the images, times in the past or in the future."""
    draws = training.draws
    for folder in (training.output, training.images, training.place.folder / "cache"):
        shift = draws.uniform(-20, 60) * _YEAR
        for path in folder.rglob("*"):
            stamp = path.stat().st_mtime + shift * draws.random()
            os.utime(path, (stamp, stamp))
    training.add("times of all files in the past or future", 0, "").lost = 0


def _two_at_once(training: Training) -> None:
    """Resume a run in two processes at once."""
    run = training.run
    fault = Fault("", answers={0: ("",), 1: (faults.CLAIMED,)})
    second: list[Running] = []

    def alongside(started: Running) -> None:
        words, environment = training.arguments(run), training.environment
        second.append(training.place.commands.start(*words, environment=environment))

    ended, progress, _ = training.process(fault, run, alongside)
    other = second[0].wait()
    for each in (ended, other):
        line = line_of(each)
        training.check(fault.allows(each.code, line), f"two at once: {line}", each)
        if each.code:
            training.add("two processes at once", each.code, line).lost = 0
    training.check(0 in (ended.code, other.code), "two at once: both are refused", other)
    training.note_progress(progress, ended)
    training.reached = max(training.reached, progress.reached)
    training.check_files("two at once", killed=False)


def _readers(training: Training) -> None:
    """Read the run while a process trains in it."""
    run, place = training.run, training.place
    rows = place.folder / "rows.csv"
    common = ["--plugin", training.arguments(None)[-2]]
    predict = ["predict", str(run), str(training.images), "--output", str(rows), *common]
    commands = [
        [*predict, "--kernels", "keras"],
        ["evaluate", str(run), "--kernels", "keras", "--json", *common],
        ["report", str(run), *common],
        ["runs", str(training.output), "--json"],
    ]
    chosen = training.draws.sample(commands, 2)
    ended = []

    def alongside(started: Running) -> None:
        for words in chosen:
            ended.append((words[0], place.commands.run(*words)))

    fault = Fault("", answers={0: ("",)})
    trained, progress, _ = training.process(fault, run, alongside)
    training.check(trained.code == 0, "training fails while its run is read", trained)
    training.note_progress(progress, trained)
    reading = Fault("", answers={0: ("",), 1: faults.TOO_EARLY})
    for name, each in ended:
        line = line_of(each)
        what = f"{name} while it trains: {line}"
        training.check("Traceback" not in each.err, what, each)
        training.check(reading.allows(each.code, line), what, each)
        training.add(f"{name} while it trains", each.code, line).lost = 0
    if rows.exists():
        count = len(rows.read_text().splitlines()) - 1
        training.check(count == 96, f"predict while it trains: {count} rows")
        rows.unlink()
    training.check_files("readers", killed=False)
