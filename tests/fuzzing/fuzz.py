"""Fuzz the readers of foreign bytes: each target in processes of its own, with limits.

`python tests/fuzzing/fuzz.py --help` lists the options; `make fuzz` calls it. The results are kept in
`build/fuzz`, one JSON file a target, and with `--table FILE` they are written into a document.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

INPUTS, KERAS_INPUTS = 100_000, 2_000
"""Numbers of inputs of a target: those of pure bytes, and those that Keras opens."""
_GIB = 1 << 30
# A process that hangs in C code, where no signal is seen, is ended after this many seconds.
_STUCK = 120
# After this many inputs a process ends and another one goes on, so that leaks are seen but do not
# add up over a night.
_PER_PROCESS = 50_000
_ROOT = Path(__file__).parents[2]
_RESULTS = _ROOT / "build" / "fuzz"
_MARKS = "<!-- fuzzing: begin -->", "<!-- fuzzing: end -->"


def main() -> int:
    """Fuzz the targets that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="names of targets; all by default")
    parser.add_argument("--inputs", type=int, help=f"inputs a target [{INPUTS}, {KERAS_INPUTS}]")
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument(
        "--continue",
        dest="goes_on",
        action="store_true",
        help="go on after the inputs that the results have, until there are as many as --inputs",
    )
    parser.add_argument("--show", type=int, help="read this input alone, with its traceback")
    parser.add_argument("--table", type=Path, help="write the table of all results into a file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        _write_table(options.table)
        return 0
    sys.path[:0] = [str(Path(__file__).parent)]
    if options.child:
        return _child(options.child, options.start, options.inputs)
    from fuzz_targets import TARGETS

    known = {each.name: each for each in TARGETS}
    unknown = [name for name in options.targets if name not in known]
    if unknown:
        parser.error(f"no target {unknown[0]!r}: choose from {', '.join(known)}")
    names = options.targets or list(known)
    if options.show is not None:
        return _show(known[names[0]], options.show)
    found = 0
    for name in names:
        inputs = options.inputs or (INPUTS if known[name].kind == "bytes" else KERAS_INPUTS)
        path = _RESULTS / f"{name}.json"
        if options.goes_on and path.exists():
            result = json.loads(path.read_text())
            start, end = result["inputs"], inputs
        else:
            result = {"inputs": 0, "outcomes": {}, "findings": {}, "slowest": [0.0, -1]}
            result |= {"growth": 0, "seconds": 0.0}
            start, end = options.start, options.start + inputs
        result |= {"about": known[name].about, "kind": known[name].kind}
        _fuzz(name, start, end, result, path)
        print(_line(name, result), flush=True)
        for text, number in result["findings"].items():
            print(f"    input {number}: {text}", flush=True)
        found += len(result["findings"])
    return 1 if found else 0


def _fuzz(name: str, at: int, end: int, total: dict[str, Any], path: Path) -> None:
    """Read cases in processes; after a crash, go on behind the case that caused it.

    Args:
        name: Name of the target.
        at: Number of the first case.
        end: Number behind that of the last one.
        total: The result so far. The new cases are added to it.
        path: File for the result, written after each process.
    """
    while at < end:
        count = min(_PER_PROCESS, end - at)
        command = [sys.executable, __file__, "--child", name, "--start", str(at)]
        ended = subprocess.run([*command, "--inputs", str(count)], capture_output=True)
        lines = ended.stdout.decode(errors="replace").splitlines()
        states = [json.loads(line) for line in lines if line.startswith("{")]
        last = states[-1] if states else {"inputs": 0, "outcomes": {}, "findings": {}}
        _add(total, last)
        at += last["inputs"]
        if last["inputs"] < count:
            # It ended without a word. The case is that after the last line, or one of the next.
            text = ended.stderr.decode(errors="replace").strip().splitlines()
            reason = next((each for each in text if "atal" in each or "Error" in each), "")
            number = int((Path(tempfile.gettempdir()) / f"cnnforge-fuzz-{name}").read_text())
            if ended.returncode == 1 and not states:
                raise SystemExit("\n".join(text[-20:]))
            total["findings"][f"the process ended with {ended.returncode}: {reason[:100]}"] = number
            total["outcomes"]["crash"] = total["outcomes"].get("crash", 0) + 1
            total["inputs"] += number + 1 - at
            at = number + 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(total, indent=1) + "\n")


def _add(total: dict[str, Any], part: dict[str, Any]) -> None:
    total["inputs"] += part["inputs"]
    for name, count in part["outcomes"].items():
        total["outcomes"][name] = total["outcomes"].get(name, 0) + count
    for text, number in part["findings"].items():
        total["findings"].setdefault(text, number)
    total["slowest"] = max(total["slowest"], part.get("slowest", [0.0, -1]))
    total["growth"] = max(total["growth"], part.get("growth", 0))
    total["seconds"] += part.get("seconds", 0.0)


def _child(name: str, start: int, inputs: int) -> int:
    """Read cases in this process, and print a line of JSON now and then."""
    import logging

    from fuzz_one import Tally, peak_memory
    from fuzz_targets import TARGETS

    logging.disable(logging.CRITICAL)
    target = next(each for each in TARGETS if each.name == name)
    fast = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix=f"cnnforge-fuzz-{name}-", dir=fast))
    place = Path(tempfile.gettempdir()) / f"cnnforge-fuzz-{name}"
    # Memory for imports and compiled code is not counted as growth.
    warm = Tally(target, folder / "warm")
    for number in range(len(target.seeds)):
        warm.run_files(target.seeds[number])
    tally = Tally(target, folder / "case")
    before = peak_memory()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _GIB, size + _GIB))
    began = said = time.monotonic()
    try:
        with place.open("w") as now:
            for number in range(start, start + inputs):
                now.seek(0)
                now.write(f"{number} ")
                now.flush()
                faulthandler.dump_traceback_later(_STUCK, exit=True)
                tally.run(number)
                faulthandler.cancel_dump_traceback_later()
                if number == start + inputs - 1 or time.monotonic() > said + 1:
                    said = time.monotonic()
                    state = {"inputs": tally.inputs, "outcomes": tally.outcomes}
                    state |= {"findings": tally.findings, "slowest": tally.slowest}
                    state |= {"growth": peak_memory() - before, "seconds": said - began}
                    print(json.dumps(state), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _show(target: Any, number: int) -> int:
    """Read one case, and let its error through. Its files stay."""
    from fuzz_target import digest, fresh, place

    folder = fresh(_RESULTS / "cases" / f"{target.name}-{number}")
    files = target.case(number)
    place(folder, {}, files)
    print(folder)
    print(target.read(folder, digest(files)))
    return 0


def _line(name: str, result: dict[str, Any]) -> str:
    outcomes = ", ".join(f"{count:,} {kind}" for kind, count in sorted(result["outcomes"].items()))
    seconds, growth = result["slowest"][0], result["growth"] / 2**20
    return f"{name}: {result['inputs']:,} inputs: {outcomes}; {seconds:.2f} s, {growth:.0f} MiB"


def _write_table(path: Path) -> None:
    """Write the table of all results between two marks in a document."""
    rows = [
        "| reader | what is read | inputs | read | refused | longest | growth of memory | findings |",
        "|---|---|---:|---:|---|---:|---:|---:|",
    ]
    from_files = {each.stem: json.loads(each.read_text()) for each in _RESULTS.glob("*.json")}
    for name, result in sorted(from_files.items(), key=lambda each: (each[1]["kind"], each[0])):
        outcomes = dict(result["outcomes"])
        read = outcomes.pop("value", 0)
        refused = ", ".join(f"{count:,} {kind}" for kind, count in sorted(outcomes.items()))
        rows.append(
            f"| `{name}` | {result['about']} | {result['inputs']:,} | {read:,} | {refused} | "
            f"{result['slowest'][0]:.2f} s | {result['growth'] / 2**20:.0f} MiB | "
            f"{len(result['findings'])} |"
        )
    text = path.read_text(encoding="utf-8")
    begin, end = _MARKS
    body = begin + "\n" + "\n".join(rows) + "\n" + end
    path.write_text(
        re.sub(f"{begin}.*{end}", lambda _: body, text, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(main())
