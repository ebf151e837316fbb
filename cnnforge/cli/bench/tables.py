"""Print the results of `cnnforge bench` as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from cnnforge.benchmarking import MIN_ROUNDS
from cnnforge.cli import _render

if TYPE_CHECKING:
    from cnnforge.benchmarking import Change


def show(result: dict[str, Any]) -> None:
    """Print the tables of a result.

    Args:
        result: The result in the form that `--json` prints.
    """
    machine, peaks = result["machine"], result["peaks"]
    backend = machine["backend"]
    if any(case["shape_from"] for case in result["cases"]):
        _render.table(
            ["case", "arguments", "shape", "from", "reference"],
            [_case(case) for case in result["cases"]],
            title="what is measured: the arguments and the shapes of the layers' cases",
        )
        typer.echo()
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
        title="costs: compiling and tracing, a call on no images, an op on no images, the kernel",
    )
    if "auto" in result:
        typer.echo()
        _render.table(
            ["layer", "kind", "training", "ratio", "inference", "ratio", "why"],
            [_auto(*both) for both in zip(*result["auto"].values(), strict=True)],
            title="what --kernels auto takes",
        )
    if result["rounds"] >= MIN_ROUNDS:
        typer.echo()
    if result["torch_missing"]:
        _render.message(f"note: PyTorch is not measured: {result['torch_missing']}")
    for case in result["cases"]:
        if case["note"]:
            _render.message(f"note: {case['name']} is not measured: {case['note']}")
            continue
        if len(case["layers"]) > 1:
            _render.message(f"note: {case['name']} stands for {len(case['layers'])} layers")
        if result["rounds"] >= MIN_ROUNDS:
            typer.echo(f"{case['name']}: {_verdict(case)}")
            if case["min_ratio"] is not None:
                _show_promise(case)
    if result["rounds"] < MIN_ROUNDS:
        _render.message(
            f"note: {result['rounds']} rounds are too few to tell which layer is faster: give "
            f"--rounds {MIN_ROUNDS} or more"
        )


def _verdict(case: dict[str, Any]) -> str:
    """Say which layer is faster, in the forward pass and with all gradients."""
    found = []
    for name, words in (("forward", "forward"), ("full", "with all gradients")):
        ratio = case["passes"][name]["ratio"]
        median = ratio["median"]
        # If both layers are as fast, more than a fifth of the rounds are on either side of 1.
        if ratio["p20"] > 1:
            text = f"{median:.2f} times as fast as the reference"
        elif ratio["p80"] < 1:
            text = f"slower than the reference, which is {1 / median:.2f} times as fast"
        else:
            text = "neither layer is faster"
        found.append(f"{words} {text}")
    return ", ".join(found)


def _show_promise(case: dict[str, Any]) -> None:
    """Print a note for each pass whose ratio is below the `min_ratio` of the case."""
    for name in ("forward", "full"):
        one = case["passes"][name]
        best = one["reference"]["best"] / one["ours"]["best"]
        reached = max(one["ratio"]["median"], best)
        if reached < case["min_ratio"]:
            _render.message(
                f"note: {case['name']} {name}: {reached:.2f} times as fast as the reference, and "
                f"its min_ratio is {case['min_ratio']:g}"
            )


def show_changes(changes: Sequence[Change], remarks: Sequence[str]) -> None:
    """Print the changes since an earlier result.

    Args:
        changes: The change of each pass.
        remarks: Sentences about other differences between the two results.
    """
    typer.echo()
    _render.table(
        ["case", "pass", "ratio then", "now", "change", "noise", ""],
        [
            [
                change.case,
                change.name,
                f"{change.before:.2f}",
                f"{change.now:.2f}",
                f"{change.change:+.1%}",
                f"{change.noise:.1%}",
                change.verdict,
            ]
            for change in changes
        ],
        title="changes of the ratio reference/ours",
    )
    if any(change.verdict == "unknown" for change in changes):
        _render.message(
            f"note: no verdict with fewer than {MIN_ROUNDS} rounds: measure both results with "
            f"--rounds {MIN_ROUNDS} or more"
        )
    for remark in remarks:
        _render.message(f"note: {remark}")


def _chosen(result: dict[str, Any]) -> bool:
    return any(case["auto"] for case in result["cases"])


def _torch_measured(result: dict[str, Any]) -> bool:
    return any(one["torch"] for case in result["cases"] for one in case["passes"].values())


def _torch(times: dict[str, Any] | None) -> list[str]:
    if times is None:
        return ["-"] * 4
    return [_milliseconds(times["median"]), times["layout"], *_ratio(times["ratio"])]


def _ratio(ratio: dict[str, float]) -> list[str]:
    return [f"{ratio['median']:.2f}", f"{ratio['p20']:.2f}..{ratio['p80']:.2f}"]


def _case(case: dict[str, Any]) -> list[str]:
    arguments = ", ".join(f"{name}={value!r}" for name, value in case["arguments"].items())
    shape = "x".join(map(str, case["shape"]))
    return [case["name"], arguments or "none", shape, case["shape_from"], case["reference"]]


def _passes(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for case in result["cases"]:
        for number, (name, one) in enumerate(case["passes"].items()):
            ours, reference, ratio = one["ours"], one["reference"], one["ratio"]
            row = [
                case["name"] if number == 0 else "",
                name,
                *_timing(ours),
                *_timing(reference),
                *_ratio(ratio),
                f"{ours['flops'] / 1e9:.1f}" if ours["flops"] else "-",
                f"{ours['share_of_flops']:.0%}" if ours["flops"] else "-",
                f"{ours['bytes'] / 1e9:.1f}" if ours["bytes"] else "-",
                f"{ours['share_of_bytes']:.0%}" if ours["bytes"] else "-",
            ]
            if _torch_measured(result):
                row += _torch(one["torch"])
            if _chosen(result):
                row.append(case["auto"] or "" if number == 0 else "")
            rows.append(row)
    return rows


def _timing(times: dict[str, Any]) -> list[str]:
    return [_milliseconds(times["median"]), f"{times['p20'] * 1e3:.3f}..{times['p80'] * 1e3:.3f}"]


def _costs(case: dict[str, Any]) -> list[str]:
    first, call, op, kernel = (case[name] for name in ("first_call", "call", "overhead", "kernel"))
    both = kernel["ours"] and kernel["reference"]
    return [
        case["name"],
        *("-" if first[name] is None else f"{first[name]:.2f}" for name in ("ours", "reference")),
        *(_milliseconds(call[name]) for name in ("ours", "reference")),
        *("-" if op[name] is None else f"{op[name] * 1e6:.0f}" for name in ("ours", "reference")),
        *(_milliseconds(kernel[name]) for name in ("ours", "reference")),
        f"{kernel['reference'] / kernel['ours']:.2f}" if both else "-",
    ]


def _auto(training: dict[str, Any], inference: dict[str, Any]) -> list[str]:
    cells = [training["layer"], training["kind"]]
    for decision in (training, inference):
        ratio = "-" if decision["ratio"] is None else f"{decision['ratio']:.2f}"
        cells += [decision["provider"].removeprefix("builtin/") or "framework", ratio]
    reasons = dict.fromkeys((training["reason"], inference["reason"]))
    return [*cells, "; ".join(reasons)]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"
