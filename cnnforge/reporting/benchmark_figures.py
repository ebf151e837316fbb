"""Draw the figure of `cnnforge bench`: speed ratios as bars, and a roofline diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge.reporting.drawing import new_figure, style, write

_OURS, _REFERENCE, _ROOF = "#3b6ea8", "#d1603d", "#7a7a7a"
_PASSES = {"forward": "#9dbbdc", "backward": "#6690c2", "full": "#2f5d92"}
_MARKERS = {"forward": "o", "full": "s"}
_MAX_NUMBERED = 26


def benchmark_figure(path: Path, result: Mapping[str, Any]) -> None:
    """Draw the speed of each benchmark case.

    Each speed is compared with that of the stock Keras layer, and with the peak of the machine.

    Args:
        path: The PNG file to write.
        result: Result in the form that `cnnforge bench --json` prints.
    """
    cases = [case for case in result["cases"] if case["passes"]]
    machine, peaks = result["machine"], result["peaks"]
    known = [case for case in cases if case["passes"]["forward"]["ours"]["flops"]]
    height = max(4.6, 1.4 + 0.62 * len(cases))
    with style():
        figure = new_figure(14.5, height, layout="constrained")
        backend = machine["backend"]
        figure.suptitle(
            f"{machine['cpu']['model']} · {peaks['threads']} threads · reference: "
            f"{backend['name']} {backend['version']} · median of {result['rounds']} rounds, "
            "whiskers from the 20th to the 80th percentile",
            x=0.01,
            ha="left",
            fontsize=11,
            color="#555555",
        )
        bars, roof = figure.subplots(1, 2, width_ratios=(1.15, 1))
        names = [_label(number, case) for number, case in enumerate(cases, 1)]
        _bars(bars, names, cases, legend=-0.75 / height)
        _roofline(roof, cases, known, peaks)
        write(figure, path)


def _label(number: int, case: Mapping[str, Any]) -> str:
    count = len(case["layers"])
    more = f" (x{count})" if count > 1 else ""
    name, _, shape = case["name"].partition(" ")
    return f"{name}{more}  {number}\n{shape}"


def _bars(
    axes: Any, names: Sequence[str], cases: Sequence[Mapping[str, Any]], legend: float
) -> None:
    passes = [one for case in cases for one in case["passes"].values()]
    medians = [one["ratio"]["median"] for one in passes if one["ratio"]]
    # Choose the range of the axis so that all bars fit. Ignore the error bars: a very long one
    # would make the bars too small to read, so it is cut off at the end of the axis.
    limit = 1.3 * max([1.2, *medians])
    positions = np.arange(len(cases), dtype=float)
    height = 0.27
    for offset, (name, color) in enumerate(_PASSES.items()):
        drawn = [
            (position, case["passes"][name]["ratio"])
            for position, case in zip(positions, cases, strict=True)
            if case["passes"].get(name, {}).get("ratio")
        ]
        if not drawn:
            continue
        where = [position + (offset - 1) * height for position, _ in drawn]
        median, low, high = (
            np.array([ratio[key] for _, ratio in drawn]) for key in ("median", "p20", "p80")
        )
        spread = np.maximum([median - low, high - median], 0)
        axes.barh(
            where,
            median,
            height * 0.92,
            color=color,
            label=name,
            xerr=spread,
            error_kw={"elinewidth": 1, "ecolor": "#333333", "capsize": 1.5},
        )
        for place, value, above in zip(where, median, spread[1], strict=True):
            axes.annotate(
                f"{value:.2f}",
                (min(value + above, 0.93 * limit), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color="#333333",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8},
            )
    axes.axvline(1, color=_ROOF, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_yticks(positions, names, fontsize=9)
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.set_xlim(0, limit)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title("Times as fast as the reference")
    axes.set_xlabel("reference time / our time (right of the dashed line: faster)")
    if axes.containers:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, legend), ncols=3)


def _roofline(
    axes: Any,
    cases: Sequence[Mapping[str, Any]],
    known: Sequence[Mapping[str, Any]],
    peaks: Mapping[str, float],
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_title("Roofline")
    axes.set_box_aspect(0.8)
    axes.set_anchor("N")
    axes.set_xlabel("operations per byte that has to be moved")
    axes.set_ylabel("GFLOP/s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    points = [
        (cases.index(case) + 1, name, which, rate["flops"] / rate["bytes"], rate["flops"])
        for case in known
        for name, timed in case["passes"].items()
        if name in _MARKERS
        for which in ("ours", "reference")
        if (rate := timed[which])["flops"] and rate["bytes"]
    ]
    if not points:
        axes.text(
            0.5,
            0.5,
            "the work of these layers is not known",
            ha="center",
            va="center",
            transform=axes.transAxes,
            color="#555555",
        )
        return
    compute, memory = peaks["flops"], peaks["bytes"]
    ridge = compute / memory
    left = min(ridge, *(x for *_, x, _ in points)) / 2
    right = max(ridge, *(x for *_, x, _ in points)) * 4
    roof = np.geomspace(left, right, 200)
    axes.plot(roof, np.minimum(compute, memory * roof) / 1e9, color=_ROOF, linewidth=2)
    axes.annotate(
        f"{compute / 1e9:.0f} GFLOP/s",
        (right, compute / 1e9),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color="#555555",
    )
    axes.annotate(
        f"{memory / 1e9:.0f} GB/s",
        (left, memory * left / 1e9),
        xytext=(6, 12),
        textcoords="offset points",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        fontsize=9,
        color="#555555",
    )
    for number, name, which, x, flops in points:
        ours = which == "ours"
        axes.plot(
            x,
            flops / 1e9,
            _MARKERS[name],
            markersize=6.5,
            color=_OURS if ours else _REFERENCE,
            markerfacecolor=_OURS if ours else "white",
            zorder=3 if ours else 2,
        )
        if ours and len(known) <= _MAX_NUMBERED:
            axes.annotate(
                str(number),
                (x, flops / 1e9),
                xytext=(5, 3),
                textcoords="offset points",
                fontsize=8,
                color=_OURS,
            )
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if axis is axes.xaxis else (1.0,)))
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left, right)
    axes.legend(
        handles=[
            Line2D([], [], color=_OURS, marker="o", linestyle="", label="ours, forward"),
            Line2D([], [], color=_OURS, marker="s", linestyle="", label="ours, full"),
            Line2D(
                [],
                [],
                color=_REFERENCE,
                marker="o",
                markerfacecolor="white",
                linestyle="",
                label="reference, forward",
            ),
            Line2D(
                [],
                [],
                color=_REFERENCE,
                marker="s",
                markerfacecolor="white",
                linestyle="",
                label="reference, full",
            ),
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=4,
        columnspacing=0.9,
        handletextpad=0.1,
        fontsize=9.5,
    )
