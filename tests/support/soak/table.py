"""Write the result of a soak as Markdown."""

from __future__ import annotations

import json
import os
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

_MAX_MESSAGES = 3
_PACKAGES = ("tensorflow", "keras", "numba", "numpy")
_DIFFERENT = (
    (r"\.\.\.(/disk)?/runs N/gated-images_N-N", "RUN"),
    (r"RUN/[-\w/]+\.(csv|json|toml|keras|ckpt|png)", "RUN/FILE"),
    (r"DATA/(column|none|row)/N", "DATA/CLASS/N"),
    (r"\((column|none|row)/N", "(CLASS/N"),
    (r"outputs of layer 'gate'.*?:", "outputs of layer 'gate' ...:"),
)
_HEAD = """# A soak: {minutes} minutes of faults

`make soak MINUTES={asked:g} SEED={seed} JOBS={jobs} TABLE=docs/soak.md` has written this page on
{date}. The command trains small models again and again. It interrupts the trainings and damages
their files at random, and goes on with `--resume` until each ends. Then it compares the run with
one that nothing disturbed: the weights and the optimizer bit for bit, `model.keras`, `metrics.csv`
without the times, `predictions.csv` and `evaluation.json`. After each process it checks that

* the exit code and the message are those of [Reliability](reliability.md), without a traceback,
* every file is whole, and no temporary file is left (a killed process may leave one, which the next
  process removes),
* the images of the user are unchanged,
* nothing is lost if the message said that the state is saved.

{result}
"""
_WORDS = """
A training has {batches} batches. It saves a state after every batch, every tenth of a second, or
only at the end of an epoch; this is drawn for each training. So a SIGKILL costs at most an epoch
here. A training without the soak saves every five minutes and after every epoch. "No effect" counts
the processes that had ended before the fault came, or in which it changed nothing. The seed decides
which faults come, and when: at a certain call of a function, or soon after it. A process does not
always come to the same place in the same time, so two soaks with one seed are similar, not equal.
"""


def write_table(results: Path, path: Path | None) -> int:
    """Write the table of a soak, and return an exit code: 1 if it found an error.

    Args:
        results: File with a JSON object per line.
        path: Markdown file; `None`: the table is printed.
    """
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[row.pop("kind")].append(row)
    text = "\n".join(_page(kinds)) + "\n"
    if path is None:
        print(text)
    else:
        path.write_text(text, encoding="utf-8")
        print(path)
    return 1 if kinds["found"] or not kinds["training"] else 0


def _page(kinds: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    (begun,), trials, trainings = kinds["begun"], kinds["trial"], kinds["training"]
    seconds = kinds["ended"][0]["seconds"] if kinds["ended"] else trainings[-1]["at"]
    effective = [trial for trial in trials if not trial["late"]]
    found = kinds["found"]
    result = (
        f"In {seconds / 60:.0f} minutes, {len(trainings)} trainings had {len(effective)} faults. "
        + ("All of them" if not found else f"{len(trainings) - len(found)} of them")
        + " ended with the bits of an undisturbed training"
        + ("." if not found else f"; {len(found)} did not:")
    )
    yield _HEAD.format(
        minutes=round(seconds / 60),
        asked=begun["minutes"],
        seed=begun["seed"],
        jobs=begun["jobs"],
        date=begun["date"],
        result=result,
    )
    for each in found:
        yield f"* training {each['training']}: {each['what'].splitlines()[0]}"
    yield f"Machine: {_machine()}.\n"
    yield "| fault | trials | no effect | lost batches: mean | max | exit codes | messages |"
    yield "|---|---|---|---|---|---|---|"
    by_fault: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trial in trials:
        by_fault[trial["fault"]].append(trial)
    for fault in sorted(by_fault):
        if fault != "none":
            yield _row(fault, by_fault[fault])
    counts = Counter(training["case"] for training in trainings)
    sizes = {each["case"]: each["batches"] for each in kinds["whole"]}
    yield ""
    yield "| training | how often | batches | options |"
    yield "|---|---|---|---|"
    options = {each["case"]: each["options"] for each in kinds["whole"]}
    for case, count in counts.most_common():
        yield f"| {case} | {count} | {sizes.get(case, '')} | `{options.get(case, '')}` |"
    low, high = min(sizes.values(), default=0), max(sizes.values(), default=0)
    yield _WORDS.format(batches=f"{low} to {high}")


def _row(fault: str, trials: list[dict[str, Any]]) -> str:
    effective = [trial for trial in trials if not trial["late"]]
    lost = [trial["lost"] for trial in effective if trial["lost"] is not None]
    codes = Counter(trial["code"] for trial in effective)
    messages = Counter(_cell(trial["message"]) for trial in effective if trial["message"])
    cells = (
        fault,
        len(effective),
        len(trials) - len(effective),
        f"{sum(lost) / len(lost):.1f}" if lost else "",
        max(lost) if lost else "",
        ", ".join(f"{code} ({count})" for code, count in sorted(codes.items())),
        "; ".join(f"`{text}`" for text, _ in messages.most_common(_MAX_MESSAGES)) or "none",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _cell(text: str) -> str:
    """Leave out of a message what differs between trainings."""
    for pattern, name in _DIFFERENT:
        text = re.sub(pattern, name, text)
    return text.removeprefix("error: ").replace("|", "\\|").replace("`", "'")


def _machine() -> str:
    names = [f"{name} {version(name)}" for name in _PACKAGES]
    model = ""
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        lines = cpu.read_text().splitlines()
        model = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), "")
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    processors = f"{os.cpu_count()} processors ({model or platform.machine()})"
    return f"{processors}, {system}, {', '.join(names)}; other programs used the processors too"
