"""How `cnnforge bench` shows its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from cnnforge.cli import _render

if TYPE_CHECKING:
    from cnnforge.benchmarking import Change


def show(result: dict[str, Any]) -> None:
    """Print the tables of a result.

    Args:
        result: What `--json` prints.
    """
    machine, peaks = result["machine"], result["peaks"]
    backend = machine["backend"]
    _render.table(
        [
            "case",
            "pass",
            "ours ms",
            "p20..p80",
            "reference ms",
            "p20..p80",
            "ratio",
            "p20..p80",
            "GFLOP/s",
            "of peak",
            "GB/s",
            "of peak",
            *(["torch ms", "layout", "ratio", "p20..p80"] if _torch_measured(result) else []),
            *(["auto"] if _chosen(result) else []),
        ],
        _passes(result),
        title=f"{machine['cpu']['model']}, {peaks['threads']} threads, {backend['name']} "
        f"{backend['version']}; measured peak {peaks['flops'] / 1e9:.0f} GFLOP/s, "
        f"{peaks['bytes'] / 1e9:.0f} GB/s; {result['rounds']} rounds",
    )
    typer.echo()
    _render.table(
        [
            "case",
            "first call s",
            "reference",
            "graph call ms",
            "reference",
            "op us",
            "reference",
            "kernel ms",
            "reference",
            "ratio",
        ],
        [_costs(case) for case in result["cases"] if case["passes"]],
        title="apart: compiling and tracing, a call on no images, an op on no images, the kernel",
    )
    if "auto" in result:
        typer.echo()
        _render.table(
            ["layer", "kind", "training", "ratio", "inference", "ratio", "why"],
            [_auto(*both) for both in zip(*result["auto"].values(), strict=True)],
            title="what --kernels auto takes",
        )
    if result["torch_missing"]:
        _render.message(f"note: PyTorch is not measured: {result['torch_missing']}")
    for case in result["cases"]:
        if case["note"]:
            _render.message(f"note: {case['name']} is not measured: {case['note']}")
            continue
        if "backward" not in case["passes"]:
            _render.message(
                f"note: {case['name']} computes something else in training: forward is a "
                "prediction, full is training, and what is between them is no backward pass"
            )
        if len(case["layers"]) > 1:
            _render.message(f"note: {case['name']} stands for {len(case['layers'])} layers")


def show_changes(changes: Sequence[Change], remarks: Sequence[str]) -> None:
    """Print what has changed since an earlier result.

    Args:
        changes: One for each pass.
        remarks: What else differs.
    """
    typer.echo()
    _render.table(
        ["case", "pass", "ratio then", "now", "change", "noise", ""],
        [
            [
                it.case,
                it.name,
                f"{it.before:.2f}",
                f"{it.now:.2f}",
                f"{it.change:+.1%}",
                f"{it.noise:.1%}",
                it.verdict,
            ]
            for it in changes
        ],
        title="changes of the ratio reference/ours",
    )
    for remark in remarks:
        _render.message(f"note: {remark}")


def _chosen(result: dict[str, Any]) -> bool:
    return any(case["auto"] for case in result["cases"])


def _torch_measured(result: dict[str, Any]) -> bool:
    return any(it["torch"] for case in result["cases"] for it in case["passes"].values())


def _torch(it: dict[str, Any] | None) -> list[str]:
    if it is None:
        return ["-"] * 4
    ratio = it["ratio"]
    spread = f"{ratio['p20']:.2f}..{ratio['p80']:.2f}" if ratio else "noise"
    median = f"{ratio['median']:.2f}" if ratio else "-"
    return [_milliseconds(it["median"]), it["layout"], median, spread]


def _passes(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for case in result["cases"]:
        for number, (name, it) in enumerate(case["passes"].items()):
            ours, reference, ratio = it["ours"], it["reference"], it["ratio"]
            row = [
                case["name"] if number == 0 else "",
                name,
                *_timing(ours),
                *_timing(reference),
                f"{ratio['median']:.2f}" if ratio else "-",
                f"{ratio['p20']:.2f}..{ratio['p80']:.2f}" if ratio else "noise",
                f"{ours['flops'] / 1e9:.1f}" if ours["flops"] else "-",
                f"{ours['share_of_flops']:.0%}" if ours["flops"] else "-",
                f"{ours['bytes'] / 1e9:.1f}" if ours["bytes"] else "-",
                f"{ours['share_of_bytes']:.0%}" if ours["bytes"] else "-",
            ]
            if _torch_measured(result):
                row += _torch(it["torch"])
            if _chosen(result):
                row.append(case["auto"] or "" if number == 0 else "")
            rows.append(row)
    return rows


def _timing(it: dict[str, Any]) -> list[str]:
    return [_milliseconds(it["median"]), f"{it['p20'] * 1e3:.3f}..{it['p80'] * 1e3:.3f}"]


def _costs(case: dict[str, Any]) -> list[str]:
    first, call, op, kernel = (case[it] for it in ("first_call", "call", "overhead", "kernel"))
    both = kernel["ours"] and kernel["reference"]
    return [
        case["name"],
        *("-" if first[it] is None else f"{first[it]:.2f}" for it in ("ours", "reference")),
        *(_milliseconds(call[it]) for it in ("ours", "reference")),
        *("-" if op[it] is None else f"{op[it] * 1e6:.0f}" for it in ("ours", "reference")),
        *(_milliseconds(kernel[it]) for it in ("ours", "reference")),
        f"{kernel['reference'] / kernel['ours']:.2f}" if both else "-",
    ]


def _auto(training: dict[str, Any], inference: dict[str, Any]) -> list[str]:
    cells = [training["layer"], training["kind"]]
    for it in (training, inference):
        ratio = "-" if it["ratio"] is None else f"{it['ratio']:.2f}"
        cells += [it["provider"].removeprefix("builtin/") or "framework", ratio]
    reasons = dict.fromkeys((training["reason"], inference["reason"]))
    return [*cells, "; ".join(reasons)]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"
