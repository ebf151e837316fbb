"""Format a result of `cnnforge bench` as CSV, with one row for each pass of each case."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "case",
    "layer",
    "pass",
    "ours_seconds",
    "ours_p20",
    "ours_p80",
    "reference_seconds",
    "reference_p20",
    "reference_p80",
    "ratio",
    "ratio_p20",
    "ratio_p80",
    "flops_per_second",
    "share_of_peak_flops",
    "bytes_per_second",
    "share_of_peak_bytes",
    "first_call_seconds",
    "call_seconds",
    "overhead_seconds",
    "auto",
    "torch_seconds",
    "torch_p20",
    "torch_p80",
    "torch_ratio",
    "torch_ratio_p20",
    "torch_ratio_p80",
    "torch_layout",
    "cpu",
    "threads",
    "backend",
    "backend_version",
    "cnnforge",
    "torch",
)


def csv_text(result: Mapping[str, Any]) -> str:
    """Format a result as CSV.

    Args:
        result: Result in the form that `cnnforge bench --json` prints.

    Returns:
        The text of the table, with a line of headings. Each row names the machine, so that the rows
        of several files can be combined. A cell is empty if its value is not known.
    """
    machine = result["machine"]
    about = [
        machine["cpu"]["model"],
        result["peaks"]["threads"],
        machine["backend"]["name"],
        machine["backend"]["version"],
        machine["packages"].get("cnnforge", ""),
        machine["packages"].get("torch", ""),
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case in result["cases"]:
        for name, times in case["passes"].items():
            ours, reference, ratio = times["ours"], times["reference"], times["ratio"]
            numbers = [
                *(ours[key] for key in ("median", "p20", "p80")),
                *(reference[key] for key in ("median", "p20", "p80")),
                *(ratio[key] for key in ("median", "p20", "p80")),
                *(ours[key] for key in ("flops", "share_of_flops", "bytes", "share_of_bytes")),
                *(case[key]["ours"] for key in ("first_call", "call", "overhead")),
            ]
            writer.writerow(
                [
                    case["name"],
                    case["layer"],
                    name,
                    *("" if number is None else f"{number:.6g}" for number in numbers),
                    case.get("auto") or "",
                    *_torch(times.get("torch")),
                    *about,
                ]
            )
    return text.getvalue()


def _torch(times: Mapping[str, Any] | None) -> list[str]:
    """Return the cells that hold PyTorch's times. They are empty if PyTorch was not measured."""
    if times is None:
        return [""] * 7
    ratio = times["ratio"] or {}
    keys = ("median", "p20", "p80")
    numbers = [*(times[key] for key in keys), *(ratio.get(key) for key in keys)]
    return [*("" if number is None else f"{number:.6g}" for number in numbers), times["layout"]]
