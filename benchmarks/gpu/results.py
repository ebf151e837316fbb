"""Write and read the results file of bench_gpu.py, print tables, and compare with the goals."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gpu.ceilings import Ceilings, floor
from gpu.measure import Measured
from gpu.rows import LARGE, ROWS, Row, work

_THREE = ("median", "p20", "p80")
_MEASURED = (
    *("key", "verdict"),
    *(f"{who}_{part}" for who in ("ours", "peer", "ratio") for part in _THREE),
    *("peer_name", "floor", "bound", "flops", "bytes", "distance", "sets", "rounds"),
    *("tuned", "note"),
)
_ABOUT = ("gpu", "driver", "torch", "cudnn", "numba_cuda")
_CEILINGS = tuple(Ceilings.__dataclass_fields__)
COLUMNS = (*_MEASURED, *_ABOUT, *(f"peak_{name}" for name in _CEILINGS))


def path_of(folder: Path, gpu: str) -> Path:
    """Return the path of the results file of a device, such as ``nvidia-h200.csv``."""
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}.csv"


def csv_text(rows: Sequence[Measured], about: Mapping[str, str], ceilings: Ceilings | None) -> str:
    """Return all results as CSV text, one line per row, with seconds, bytes, flops and ratios."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    peaks = {f"peak_{name}": rate for name, rate in (asdict(ceilings) if ceilings else {}).items()}
    for row in rows:
        values = row.to_json()
        for who in ("ours", "peer", "ratio"):
            three = values.pop(who) or ()
            values |= {f"{who}_{part}": value for part, value in zip(_THREE, three, strict=False)}
        values["tuned"] = json.dumps(row.tuned, sort_keys=True) if row.tuned else ""
        values |= {name: about.get(name, "") for name in _ABOUT} | peaks
        writer.writerow({key: _cell(value) for key, value in values.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value


def read(path: Path) -> tuple[list[Measured], dict[str, str], Ceilings | None]:
    """Return three values from a results file: the rows, the device's description and peak rates.

    If the file does not exist, the rows and the description are empty, and the peak rates are
    ``None``.

    Raises:
        ValueError: The file has another format, for example of another version of this script.
    """
    if not path.exists():
        return [], {}, None
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    found = []
    try:
        for line in lines:
            numbers = {
                who: tuple(float(line[f"{who}_{part}"]) for part in _THREE)
                if line[f"{who}_median"]
                else None
                for who in ("ours", "peer", "ratio")
            }
            found.append(
                Measured(
                    **{name: line[name] for name in ("key", "verdict", "peer_name", "bound")},
                    **numbers,
                    **{name: int(line[name]) for name in ("flops", "bytes", "sets", "rounds")},
                    floor=float(line["floor"]) if line["floor"] else None,
                    distance=float(line["distance"]) if line["distance"] else None,
                    tuned=json.loads(line["tuned"] or "{}"),
                    note=line["note"],
                )
            )
        about = {name: lines[0][name] for name in _ABOUT} if lines else {}
        peaks = {name: lines[0][f"peak_{name}"] for name in _CEILINGS} if lines else {}
        ceilings = (
            Ceilings(**{k: float(v) for k, v in peaks.items()}) if any(peaks.values()) else None
        )
    except (LookupError, ValueError, TypeError) as error:
        raise ValueError(f"{path} was not written by this version of bench_gpu.py") from error
    return found, about, ceilings


def table(rows: Sequence[Measured], ceilings: Ceilings | None) -> str:
    """Return a table of the results, with times in microseconds.

    A ratio is the time of PyTorch divided by ours, so above 1 our kernel is faster.
    """
    lines = []
    if ceilings:
        lines += [
            f"measured: copy {ceilings.bytes / 1e9:.0f} GB/s (read and written), float32 "
            f"{ceilings.float32 / 1e12:.1f}, tf32 {ceilings.tf32 / 1e12:.0f}, bfloat16 "
            f"{ceilings.bfloat16 / 1e12:.0f} TFLOP/s",
            "",
        ]
    lines.append(
        f"{'row':44} {'ours us':>9} {'peer us':>9} {'ratio (20 % to 80 %)':>22} "
        f"{'floor us':>9} {'of floor':>8}  peer"
    )
    for row in rows:
        if row.ours is None:
            lines.append(f"{row.key:44} {row.verdict}")
            continue
        peer = f"{row.peer[0] * 1e6:9.2f}" if row.peer else f"{'':9}"
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*row.ratio) if row.ratio else ""
        minimum = row.floor or math.nan
        lines.append(
            f"{row.key:44} {row.ours[0] * 1e6:9.2f} {peer} {ratio:>22} {minimum * 1e6:9.2f} "
            f"{minimum / row.ours[0]:>7.0%}  {row.peer_name}, by {row.bound}"
            + (f"  [{row.note.strip()}]" if row.note else "")
        )
    return "\n".join(lines)


def floors(rows: Sequence[Row], ceilings: Ceilings) -> str:
    """Return a Markdown table of the operations, bytes and minimum time of rows.

    Nothing is measured: the minimum times follow from ``ceilings``.
    """
    lines = ["| row | MFLOP | MB | floor, us | bound by |", "|---|---|---|---|---|"]
    for row in rows:
        needed, minimum = work(row), floor(row, ceilings)
        lines.append(
            f"| {row.key} | {needed.flops / 1e6:.1f} | {needed.bytes / 1e6:.2f} | "
            f"{minimum.seconds * 1e6:.2f} | {minimum.bound} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Goal:
    """A goal for the speed of the kernels, and the measured value.

    Attributes:
        text: Description of the goal.
        wanted: Minimum value that reaches the goal.
        value: Measured value; ``None`` if nothing was measured.
        missing: Number of rows of the goal that were not measured.
    """

    text: str
    wanted: float
    value: float | None
    missing: int = 0

    def __str__(self) -> str:
        if self.value is None:
            return f"not measured  {self.text}: at least {self.wanted:g}"
        reached = self.value >= self.wanted
        verdict = "NOT REACHED" if not reached else "incomplete" if self.missing else "reached"
        missing = f"; {self.missing} rows are missing" if self.missing else ""
        return f"{verdict:12}  {self.text}: {self.value:.2f} of {self.wanted:g}{missing}"


def goals(
    rows: Sequence[Measured], ceilings: Ceilings | None, epoch: float | None = None
) -> list[Goal]:
    """Return the goals for a GPU, with the values that were measured.

    Args:
        rows: Results of the rows.
        ceilings: Peak rates of the device.
        epoch: Time of an epoch in eager PyTorch divided by ours; ``None`` if it was not measured.
    """
    known = {row.key: row for row in rows}
    copied = ceilings.bytes if ceilings else math.inf

    def goal(
        text: str,
        wanted: float,
        rule: Callable[[Row], bool],
        value: Callable[[Measured], float | None],
        join: Callable[[list[float]], float],
    ) -> Goal:
        named = [row.key for row in ROWS if rule(row)]
        found = [value(known[key]) for key in named if key in known]
        values = [one for one in found if one is not None]
        missing = len(named) - len(values)
        return Goal(text, wanted, join(values) if values else None, missing)

    def ratio(row: Measured) -> float | None:
        return row.ratio[0] if row.ratio else None

    def share(row: Measured) -> float | None:
        return row.bytes / row.ours[0] / copied if row.ours else None

    def narrow(row: Row) -> bool:
        few = min(row.weights[2:], default=0) <= 32
        return row.op == "convolution" and row.precision == "float32" and few

    def pool(row: Row) -> bool:
        return row.op in ("max", "average")

    found = [
        goal(
            f"block forward and full at batch {LARGE}, times as fast as compiled cuDNN, minimum",
            2.0,
            lambda row: row.op == "block" and row.large,
            ratio,
            min,
        ),
        goal(
            "float32 convolution with C or F <= 32, all passes, geometric mean",
            1.2,
            narrow,
            ratio,
            lambda values: float(np.exp(np.mean(np.log(values)))),
        ),
        goal(
            "tf32 and bfloat16 convolution, minimum",
            0.8,
            lambda row: row.precision != "float32",
            ratio,
            min,
        ),
        goal(
            f"pools at batch {LARGE}, share of the copy bandwidth, minimum",
            0.9,
            lambda row: pool(row) and row.large,
            share,
            min,
        ),
        goal(
            "pools at their own batch, share of the copy bandwidth, minimum",
            0.9,
            lambda row: pool(row) and not row.large,
            share,
            min,
        ),
        Goal("epoch of lenet, batch 1024, times as fast as eager PyTorch", 1.5, epoch),
    ]
    checked = [row for row in rows if not row.verdict.startswith("FAILED")]
    right = sum(row.verdict == "right" for row in checked)
    rate = right / len(checked) if checked else None
    text = "share of rows that are right, with the same bits when computed again"
    return [*found, Goal(text, 1.0, rate, len(ROWS) - len(checked))]
