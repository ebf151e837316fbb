"""One training with faults: it must end with the bits of a training without any."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faulty_toy
from forked import Commands, Ended, Running

from soak import between, faults, plugin
from soak.faults import Fault, line_of, missing_of
from soak.files import (
    digest_of,
    facts_of,
    incomplete_files,
    is_whole_state,
    temporary_files,
    write_pictures,
)
from soak.inside import Progress

PLUGIN = plugin.__file__
_MAX_FAULTS = 8
# Max seconds for a process. The machine may be busy.
_PATIENCE = 1200.0
_INSIDE = "from soak import inside\ninside.install(**{!r})\n"
_TERM = 1 << (signal.SIGTERM - 1)


class Found(Exception):
    """The soak has found an error of cnnforge."""


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        name: Its name.
        options: Options of `cnnforge train`, with a model.
        channels: Number of channels of its images.
        whole: Whether figures, report and plan are written too.
        own_cache: Whether the cache folder is one of the soak.
    """

    name: str
    options: str
    channels: int = 1
    whole: bool = False
    own_cache: bool = False


_SMALL = Case(
    "small", "gated --epochs 4 --batch-size 8 --kernels keras --optimizer adam --augment shift:1"
)
_EARLY = Case(
    "ends early",
    "gated --epochs 30 --batch-size 16 --kernels keras --callback early_stopping:2 --monitor loss "
    "--learning-rate 0.1 --augment shift:2",
)
_RICH = Case(
    "rich",
    "gated --epochs 5 --batch-size 8 --kernels keras --augment light --ema 0.9 --schedule cosine "
    "--warmup-epochs 1 --cache --tensorboard --callback halve_on_plateau:1 --label-smoothing 0.1 "
    "--log jsonl:LOG",
    channels=3,
    whole=True,
    own_cache=True,
)
_KERNELS = Case(
    "kernels", "gated --epochs 4 --batch-size 12 --kernels numba --optimizer sgd --momentum 0.9"
)
# One after another. Those that are quick come more often.
CASES = (_SMALL, _EARLY, _SMALL, _RICH, _EARLY, _SMALL, _KERNELS)


@dataclass
class Whole:
    """A training without faults.

    Attributes:
        weights: Digest of its variables.
        facts: Values that another run must have too, see `soak.files.facts_of`.
        moments: Number of its moments.
        seconds: Its time.
        batches: Number of its batches.
    """

    weights: str
    facts: dict[str, Any]
    moments: int
    seconds: float
    batches: int


@dataclass
class Trial:
    """A fault that has come.

    Attributes:
        training: Number of the training.
        case: Name of its case.
        fault: Name of the fault.
        code: Exit code.
        message: Line with the error, or the note; without paths.
        lost: Number of batches that were trained again; `None` if it is unknown.
        late: Whether the fault had no effect, since the process had ended or did not come there.
    """

    training: int
    case: str
    fault: str
    code: int
    message: str
    lost: int | None = None
    late: bool = False


class Place:
    """A folder for trainings, with images of their own.

    Args:
        folder: The folder; it must not exist.
        commands: Starts processes.
        disk: A folder on a small disk; `None` for none.
    """

    def __init__(self, folder: Path, commands: Commands, disk: Path | None) -> None:
        self.folder, self.commands, self.disk = folder, commands, disk
        self.data = {channels: folder / f"images {channels}" for channels in (1, 3)}
        for channels, images in self.data.items():
            write_pictures(images, channels)
        self.images = {channels: digest_of(path) for channels, path in self.data.items()}
        self.known: dict[str, Whole] = {}

    def whole(self, case: Case) -> Whole:
        """Train without faults, at the first call."""
        if case.name not in self.known:
            training = Training(self, case, -1, 0)
            ended, progress, seconds = training.process(Fault("", {}), None)
            if ended.code:
                raise Found(f"a training without faults failed:\n{ended.err}")
            result = ended.json
            facts = facts_of(Path(result["run"]))
            self.known[case.name] = Whole(
                result["weights"], facts, progress.moments, seconds, progress.reached
            )
            training.remove()
        return self.known[case.name]


@dataclass
class Training:
    """A training with faults.

    Attributes:
        place: Its folder.
        case: The case.
        number: Its number; -1 for a training without faults.
        seed: Seed of the soak.
        trials: The faults so far.
    """

    place: Place
    case: Case
    number: int
    seed: int
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draws = random.Random(f"{self.seed} {self.number} {self.case.name}")
        on_disk = self.place.disk is not None and self.draws.random() < 0.5
        root = self.place.disk if on_disk and self.number >= 0 else self.place.folder
        assert root is not None
        self.on_disk = root == self.place.disk
        self.output = root / f"runs {self.number}"
        self.images = self.place.data[self.case.channels]
        self.one_batch = self.draws.random() < 0.75
        self.save_seconds = self.draws.choice((-1.0, -1.0, 0.1, 300.0))
        # States that the soak has damaged.
        self.damaged: set[Path] = set()
        # Temporary files before the last process.
        self.temporary: set[str] = set()
        # Directories of processes that were killed before they could be resumed.
        self.abandoned: set[Path] = set()
        # Number of batches that the training had reached, and the fault that stopped it there.
        self.reached, self.stopped_by = 0, None
        self.claims_saved = False

    @property
    def run(self) -> Path | None:
        """The run that can be resumed."""
        found = sorted(self.output.glob("*/config.toml"))
        return found[-1].parent if found else None

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its processes."""
        if not self.case.own_cache:
            return {}
        return {"XDG_CACHE_HOME": str(self.place.folder / "cache")}

    def remove(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)
        for name in ("cache", "log.jsonl"):
            path = self.place.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def check(self, holds: Any, what: str, ended: Ended | None = None) -> None:
        if not holds:
            said = f"\nexit code {ended.code}\n{ended.err}" if ended else ""
            raise Found(f"{what}{said}")

    def execute(self) -> None:
        """Train with faults until the end.

        Raises:
            Found: An error of cnnforge was found. The files are kept.
        """
        whole = self.place.whole(self.case)
        ended, clean = None, False
        for count in range(_MAX_FAULTS + 1):
            run = self.run
            if run is not None and self.draws.random() < 0.6:
                between.draw(self)
            clean = count == _MAX_FAULTS
            # A third of the moments come before and after the batches.
            rest = 1 - 0.65 * min(1, self.reached / whole.batches)
            drawn = faults.draw(self.draws, int(rest * whole.moments), rest * whole.seconds)
            fault = Fault("none", answers={0: ("",)}) if clean else drawn
            ended, progress, _ = self.process(fault, run)
            self.judge(fault, ended, progress)
            if self.has_left_out_an_image():
                continue
            if missing_of(ended):
                # Tables or figures are missing. The next process writes them.
                continue
            if not ended.code:
                break
        assert ended is not None
        self.finish(ended, whole)

    def process(
        self, fault: Fault, run: Path | None, alongside: Callable[[Running], None] | None = None
    ) -> tuple[Ended, Progress, float]:
        """Start a training, or resume it, and wait for its end."""
        self.temporary = temporary_files(self.output)
        noted = self.place.folder / "progress"
        noted.write_bytes(b"")
        orders = {"save_seconds": self.save_seconds, "short": self.one_batch, **fault.orders}
        spare = None
        if "damaged" in orders:
            path = self.draws.choice(sorted(self.images.rglob("*.png")))
            spare, junk = path.read_bytes(), self.place.folder / "junk"
            junk.write_bytes(self.draws.choice((b"", b"junk", spare[: len(spare) // 2])))
            orders["damaged"] = (str(path), str(junk))
        before = _INSIDE.format({"progress": str(noted), **orders})
        before += "" if self.case.whole else faulty_toy.QUICK
        options: dict[str, Any] = {"before": before, "environment": self.environment}
        filler = self.output.parent / "filler"
        if fault.room and self.on_disk:
            _fill(filler, fault.room)
        elif fault.room:
            options["limits"] = {"FSIZE": fault.room}
        begun = time.monotonic()
        if fault.program:
            ended = self._program(fault, run)
        else:
            started = self.place.commands.start(*self.arguments(run), **options)
            if alongside is not None:
                alongside(started)
            _send(started.pid, fault, noted)
            ended = started.wait()
        seconds = time.monotonic() - begun
        filler.unlink(missing_ok=True)
        if spare is not None:
            Path(orders["damaged"][0]).write_bytes(spare)
        return ended, Progress.read(noted), seconds

    def has_left_out_an_image(self) -> bool:
        """Return whether the run has begun without an image, and remove it then.

        An image that is damaged before the data are opened is left out, as it should be.
        """
        run = self.run
        if run is None or not (run / "skipped.csv").exists():
            return False
        shutil.rmtree(run)
        self.reached, self.stopped_by, self.claims_saved = 0, None, False
        return True

    def arguments(self, run: Path | None) -> list[str]:
        log = self.place.folder / "log.jsonl"
        if run is not None:
            # A full disk may have kept the first command from remembering the plugin.
            return ["train", "--resume", str(run), "--plugin", PLUGIN, "--json"]
        words = [word.replace("LOG", str(log)) for word in self.case.options.split()]
        places = ["--data", str(self.images), "--output", str(self.output), "--plugin", PLUGIN]
        return ["train", *words, *places, "--json"]

    def _program(self, fault: Fault, run: Path | None) -> Ended:
        support = Path(__file__).parents[1]
        code = f"import sys; sys.path.insert(0, {str(support)!r})\n"
        # The plugin imports a module of the soak.
        code += "from cnnforge.cli import main\nsys.exit(main())"
        with (self.place.folder / "program").open("w+") as err:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *self.arguments(run)],
                stdout=subprocess.DEVNULL,
                stderr=err,
                env={**os.environ, **self.environment},
            )
            _send(process.pid, fault, self.place.folder / "progress")
            code = process.wait(_PATIENCE)
            err.seek(0)
            return Ended(code if code >= 0 else 128 - code, "", err.read())

    def judge(self, fault: Fault, ended: Ended, progress: Progress) -> Trial:
        """Compare the end of a process with what is documented."""
        line = line_of(ended)
        self.check("Traceback" not in ended.err, f"a traceback after {fault.name}", ended)
        self.check(fault.allows(ended.code, line), f"{fault.name}: not documented: {line}", ended)
        self.check(len(ended.errors) <= 1, f"{fault.name}: {len(ended.errors)} errors", ended)
        self.note_progress(progress, ended)
        missing = missing_of(ended)
        late = ended.code == 0 and not missing
        if fault.name == "the clock jumps":
            late = not progress.fired
        trial = self.add(fault.name, ended.code, line or missing, late)
        if progress.first < 0 and not fault.program:
            # It has not begun to train.
            trial.lost = 0
        elif ended.code:
            self.stopped_by = trial
        self.claims_saved = "the state is saved" in line
        self.check_files(fault.name, killed=ended.code == 137)
        return trial

    def note_progress(self, progress: Progress, ended: Ended) -> None:
        """Compare where the process began with where the one before it ended."""
        if progress.first < 0:
            return
        lost = max(0, self.reached - progress.first)
        if self.claims_saved:
            self.check(not lost, f"{lost} batches are lost after 'the state is saved'", ended)
        if self.stopped_by is not None:
            self.stopped_by.lost = lost
        self.reached, self.claims_saved = progress.reached, False

    def add(self, fault: str, code: int, line: str, late: bool = False) -> Trial:
        trial = Trial(self.number, self.case.name, fault, code, self.short(line), late=late)
        self.trials.append(trial)
        return trial

    def short(self, line: str) -> str:
        """Leave paths and numbers out of a line."""
        run = self.run
        for path, name in (
            *([(run, "RUN")] if run is not None else ()),
            (self.images, "DATA"),
            (self.place.folder, "..."),
        ):
            line = line.replace(str(path), name)
        return re.sub(r"\d+", "N", line)

    def check_files(self, name: str, killed: bool) -> None:
        """Check that all files are whole, and that there is no temporary file."""
        begun = {path for path in self.output.glob("*") if not (path / "config.toml").exists()}
        if killed:
            self.abandoned = begun
        left = begun - self.abandoned
        self.check(not left, f"{name}: directories without a configuration are left: {left}")
        if not killed:
            # A process that ended before it began has not removed those of a killed one.
            left = temporary_files(self.output) - self.temporary
            self.check(not left, f"{name}: temporary files are left: {left}")
        run, damaged = self.run, self.damaged
        self.damaged = {each for each in damaged if each.exists() and not is_whole_state(each)}
        bad = incomplete_files(run, self.damaged) if run is not None else []
        self.check(not bad, f"{name}: incomplete files: {bad}")
        same = digest_of(self.images) == self.place.images[self.case.channels]
        self.check(same, f"{name}: the images have changed")

    def finish(self, ended: Ended, whole: Whole) -> None:
        """Compare the run with one without faults."""
        run = self.run
        for path in self.abandoned:
            shutil.rmtree(path)
        self.check(ended.code == 0 and run is not None, "the training did not end", ended)
        assert run is not None
        # A new process cannot say on its stdout what it did; and a finished run changes no more.
        ended = self.process(Fault("", {}), run)[0]
        self.check(ended.code == 0, "a finished run cannot be resumed", ended)
        left = temporary_files(self.output)
        self.check(not left, f"temporary files are left: {left}")
        self.check(ended.json["weights"] == whole.weights, "the weights differ", ended)
        facts = facts_of(run)
        # Commands that read the run may have written these.
        extra = set(facts["names"]) - set(whole.facts["names"])
        self.check(extra <= {"report.html", "plan.json"}, f"additional files: {extra}")
        facts["names"] = sorted(set(facts["names"]) - extra)
        for name, value in whole.facts.items():
            self.check(facts.get(name) == value, f"{name}: {facts.get(name)} is not {value}", ended)
        listed = self.place.commands.run("runs", str(self.output), "--json")
        self.check(listed.code == 0, "the run cannot be listed", listed)
        states = [row["state"] for row in listed.json["runs"]]
        self.check(states == ["finished"], f"the run is listed as {states}", listed)


def _fill(path: Path, room: int) -> None:
    """Fill a disk with a file, so that this number of bytes is left."""
    with path.open("wb") as file:
        with suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))
        file.truncate(max(0, file.tell() - room))


def _send(pid: int, fault: Fault, noted: Path) -> None:
    """Send signals to a process, once it has handlers and has come to a moment."""
    for number, moment, after in fault.signals:

        def is_there(at: int = moment) -> bool:
            return Progress.read(noted).moments >= at

        if number != signal.SIGKILL:
            _wait(pid, lambda: _handles(pid))
        _wait(pid, is_there)
        time.sleep(after)
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait(pid: int, done: Callable[[], bool]) -> None:
    """Wait until something is true, or a process has ended."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and not done():
        if _status(pid)["State"].startswith("Z"):
            return
        time.sleep(0.002)


def _handles(pid: int) -> bool:
    """Return whether a process handles SIGTERM."""
    return bool(int(_status(pid)["SigCgt"], 16) & _TERM)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
