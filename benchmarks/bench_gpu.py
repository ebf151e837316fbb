"""Test and measure the CUDA kernels on a real device, compared with PyTorch and its cuDNN.

    python benchmarks/bench_gpu.py

The script needs an NVIDIA device, numba, numba-cuda, NumPy and PyTorch, but neither TensorFlow nor
Keras. A *row* is one benchmark case: an op at one shape, batch and precision (gpu/rows.py). The
script does the following in this order:

* run the tests of the kernels on the device (``pytest -m gpu``), and the tests of the layers if
  Keras is installed;
* measure a training epoch of LeNet;
* compile the kernels, and measure the peak rates of the device;
* measure every row;
* train an epoch through Keras if it is installed.

Before a row is timed, its result is compared with a float64 reference on the CPU at the same shape.
Then the result is computed again and must have the same bits. A wrong row is not timed. Then our
kernels and the variants of PyTorch are timed alternately by events of the device. Each is captured
into a CUDA graph. The graph works on more memory than the L2 cache holds, so that the arrays are
read from memory. After every row, all results are written to ``results/<gpu>.csv``. They are drawn
at the end.

Exit codes: 0 if all results are right, 1 if a result is wrong or a part failed, 2 for a usage error
or a missing device. Goals are printed and do not change the exit code.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if find_spec("cnnforge_kernels") is None:
    sys.path += [str(ROOT), str(ROOT / "kernels"), str(ROOT / "plugins")]

from gpu import results, rows, session, suite  # noqa: E402
from gpu.ceilings import H200, Ceilings  # noqa: E402
from gpu.epoch import epoch, in_keras, in_pytorch  # noqa: E402
from gpu.measure import Measured  # noqa: E402
from gpu.options import parsed  # noqa: E402

# With a time limit, rows stop early so that this many seconds remain for the steps after the rows,
# and for the epoch in Keras.
_RESERVE, _KERAS = 30.0, 90.0


def missing() -> str:
    """Return a message that names what a measurement lacks; ``""`` if nothing is missing."""
    for name, package in (("torch", "torch"), ("numba", "numba"), ("numba_cuda", "numba-cuda")):
        if find_spec(name) is None:
            return f"{package} is not installed"
    import torch  # pyright: ignore[reportMissingImports]

    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device (nvidia-smi shows whether the driver does)"
    from cnnforge_kernels.cuda.runtime.availability import missing as missing_for_kernels

    return missing_for_kernels() or ""


def make_device(dry_run: bool) -> Any:
    if dry_run:
        from gpu.dry_run import DryRunDevice

        return DryRunDevice()
    from gpu.torch_device import TorchDevice

    return TorchDevice()


def worker(options: Any) -> int:
    """Measure the rows in the value of ``--worker``, and print each result as a line of JSON."""
    from gpu.measure import measure

    from cnnforge_kernels.cuda.runtime import tuning

    asked = json.loads(options.worker)
    if options.tune:
        tuning.enable()
    known = {row.key: row for row in rows.ROWS}

    def row_of(key: str) -> rows.Row:
        if not options.dry_run:
            return known[key]
        from gpu.dry_run import shrunk

        return shrunk(known[key])

    return session.work(
        asked["keys"],
        make_device(options.dry_run),
        row_of,
        lambda *arguments: measure(*arguments, rounds=options.rounds, alone=options.alone),
        lambda message: print(json.dumps(message), flush=True),
        ceilings=Ceilings(**asked["ceilings"]) if asked["ceilings"] else None,
        seconds=asked["seconds"],
    )


class Clock:
    """Computes how much of the time limit of the script is left."""

    def __init__(self, limit: float | None, reserve: float = _RESERVE) -> None:
        self._begun, self._reserve = time.monotonic(), reserve
        self._end = float("inf") if limit is None else self._begun + limit

    def left(self, part: float = 1.0) -> float | None:
        """Return ``part`` times the seconds until ``deadline``; ``None`` without a time limit."""
        left = self.deadline - time.monotonic()
        return None if left == float("inf") else max(part * left, 1.0)

    @property
    def rest(self) -> float | None:
        """Seconds until the time limit, including the reserve; ``None`` without a time limit."""
        left = self._end - time.monotonic()
        return None if left == float("inf") else max(left, 1.0)

    @property
    def deadline(self) -> float:
        """Value of ``time.monotonic()`` after which no row may start."""
        return self._end - self._reserve

    def __str__(self) -> str:
        return f"[{time.monotonic() - self._begun:.0f} s]"


def say(text: object) -> None:
    print(text, flush=True)


def run(options: Any) -> int:
    keras = "keras" in options.parts and not options.dry_run and find_spec("keras") is not None
    rows_follow = "rows" in options.parts
    reserve = _RESERVE * rows_follow + _KERAS * keras
    if options.time_limit is not None and not rows_follow:
        reserve = min(reserve, options.time_limit / 2)
    clock, found = Clock(options.time_limit, reserve), session.Session()
    say(", ".join(f"{name} {version}" for name, version in versions().items()))
    try:
        kept = _resumed(options, found) if options.resume else []
    except ValueError as error:
        print(f"bench_gpu.py: --resume: {error}", file=sys.stderr)
        return 2
    failed = said(_checks(options, clock))
    if options.sanitize is not None:
        return int(failed)
    faster, lines = None, []
    if "epoch" in options.parts:
        seconds = clock.left(0.25 if rows_follow else 1.0)
        faster, lines = in_pytorch(_again(options, "--epoch"), seconds)
        say("\n".join([*lines, ""]))
    wrong = _rows(options, clock, kept, found) if rows_follow else []
    if keras:
        lines += (keras_lines := in_keras(clock.rest))
        say("\n".join([*keras_lines, ""]))
    every = _ordered([*kept, *found.rows])
    for goal in results.goals(every, found.ceilings, faster):
        say(goal)
    if options.dry_run:
        say("dry run: the times above are made up")
    failed |= any("FAILED" in line for line in lines)
    say(f"{clock} all is done")
    return int(failed or bool(wrong))


def _rows(options: Any, clock: Clock, kept: list[Measured], found: session.Session) -> list[str]:
    """Measure the chosen rows and print the results. Return the keys of wrong rows."""
    known = {row.key for row in kept}
    keys = [row.key for row in options.rows if row.key not in known]
    if not options.dry_run:
        say(f"{clock} {_compiled(options, keys, clock)}")
    options.out.mkdir(parents=True, exist_ok=True)
    session.measure_all(
        found,
        keys,
        lambda left, known: _command(options, left, known, clock),
        lambda now, row: _flush(options, clock, now, kept, row),
        deadline=clock.deadline,
    )
    every = _ordered([*kept, *found.rows])
    say(f"\n{results.table(every, found.ceilings)}\n")
    for line in found.problems:
        say(line)
    if found.not_measured:
        say(f"no time was left for {len(found.not_measured)} rows: {' '.join(found.not_measured)}")
    if any(row.ours for row in every):
        say(_draw(options, every, found))
    wrong = [row.key for row in every if row.verdict != "right"]
    if wrong:
        say(f"{len(wrong)} rows are wrong or have failed: {' '.join(wrong)}")
    if not every:
        say("nothing was measured")
    return wrong if every else ["nothing"]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages."""
    found = {"Python": platform.python_version()}
    for name in ("numpy", "numba", "numba-cuda", "cuda-core", "cuda-bindings", "torch", "keras"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def said(outcomes: Iterable[suite.Outcome]) -> bool:
    """Print each outcome as soon as it is known. Return whether one has failed."""
    failed = False
    for outcome in outcomes:
        say(outcome)
        failed |= outcome.verdict == "FAILED"
    return failed


def _checks(options: Any, clock: Clock) -> Iterable[suite.Outcome]:
    if options.sanitize is not None:
        yield from suite.sanitize(
            options.sanitize or suite.TOOLS, clock.rest, options.tests, options.out
        )
    elif not options.dry_run:
        # If rows are measured afterwards, the tests may use only 30 % of the time that is left.
        part = 0.3 if "rows" in options.parts else 1.0
        for name, check in (("suite", suite.parity), ("layers", suite.layers)):
            if name in options.parts:
                yield check(clock.left(part), options.tests, options.out)


def _compiled(options: Any, keys: Sequence[str], clock: Clock) -> str:
    import torch  # pyright: ignore[reportMissingImports]
    from gpu.precompile import precompile

    capability = torch.cuda.get_device_capability(0)
    return precompile(keys, options.tune, capability, clock.left(part=0.4))


def _exported(options: Any) -> int:
    """Compile kernels for another machine with a device. This machine needs none.

    Return the exit code of the script.
    """
    from gpu.precompile import precompile

    folder, keys = options.cubins.resolve(), [row.key for row in options.rows]
    say(done := precompile(keys, options.tune, options.compile_for, folder=folder))
    failed = "suite" in options.parts and said(suite.compiled(options.compile_for, folder))
    return int(failed or "FAILED" in done)


def _again(options: Any, *more: str) -> list[str]:
    """Return a command that runs this script in another process, with more options."""
    return [sys.executable, __file__, *more, *["--dry-run"] * options.dry_run]


def _command(options: Any, left: Sequence[str], known: Ceilings | None, clock: Clock) -> list[str]:
    seconds = clock.left()
    asked = {
        "keys": list(left),
        "ceilings": vars(known) if known else None,
        "seconds": 1e9 if seconds is None else seconds,
    }
    made = _again(options, "--worker", json.dumps(asked), "--rounds", str(options.rounds))
    return made + ["--tune"] * options.tune + ["--alone"] * options.alone


def _flush(
    options: Any,
    clock: Clock,
    now: session.Session,
    kept: Sequence[Measured],
    row: Measured | None,
) -> None:
    """Write all results to the file, and print the result of the new row, if there is one."""
    if row is not None:
        ratio = f", {row.ratio[0]:.2f} times {row.peer_name}" if row.ratio else ""
        took = f": {row.ours[0] * 1e6:.2f} us{ratio}" if row.ours else ""
        say(f"{clock} {row.key}: {row.verdict}{took}")
    if now.about:
        text = results.csv_text(_ordered([*kept, *now.rows]), now.about, now.ceilings)
        path = results.path_of(options.out, now.about["gpu"])
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def _resumed(options: Any, found: session.Session) -> list[Measured]:
    """Return the correct rows of an earlier run on this device, read from its results file.

    In ``found``, set the description and the peak rates of the device to those in the file.

    Raises:
        ValueError: The earlier run used another device or other versions of packages.
    """
    device = make_device(options.dry_run)
    path = results.path_of(options.out, device.name)
    known, about, found.ceilings = results.read(path)
    if about and about != device.about():
        raise ValueError(
            f"{path} has results of {about}, but this is {device.about()}: choose another --out"
        )
    found.about = device.about()
    return [row for row in known if row.verdict == "right"]


def _ordered(every: Sequence[Measured]) -> list[Measured]:
    place = {row.key: number for number, row in enumerate(rows.ROWS)}
    return sorted(every, key=lambda row: place[row.key])


def _draw(options: Any, every: Sequence[Measured], found: session.Session) -> str:
    path = results.path_of(options.out, found.about["gpu"])
    if find_spec("matplotlib") is None:
        return f"{path}; no picture: matplotlib is not installed"
    from gpu.picture import picture

    drawn = path.with_suffix(".png")
    try:
        picture(drawn, every, found.about)
    except Exception as error:
        return f"{path}; no picture: {type(error).__name__}: {error}"
    return f"{path}, {drawn}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    if options.worker:
        return worker(options)
    if options.epoch:
        print(json.dumps(epoch(make_device(options.dry_run), options.dry_run)))
        return 0
    if options.floors:
        print(results.floors(options.rows, H200))
        return 0
    if options.cubins:
        os.environ["CNNFORGE_CUBINS"] = str(options.cubins.resolve())
    if options.compile_for:
        return _exported(options)
    why = "" if options.dry_run else missing()
    if why:
        print(
            f"bench_gpu.py: {why}. It needs an NVIDIA device with its driver, numba, numba-cuda "
            "and PyTorch: pip install 'cnnforge[cuda13]' torch",
            file=sys.stderr,
        )
        return 2
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
