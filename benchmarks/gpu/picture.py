"""Draw the figure of bench_gpu.py, which compares our time with PyTorch and with the peak rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge.reporting.drawing import new_figure, style, write
from gpu.measure import Measured

_COLORS = {
    "block": "#2f5d92",
    "convolution": "#6690c2",
    "depthwise": "#9dbbdc",
    "max": "#d1603d",
    "average": "#e5a58f",
}
_EVEN = "#333333"


def picture(path: Path, rows: Sequence[Measured], about: Mapping[str, str]) -> None:
    """Draw two bars for each row (a benchmark case).

    One bar is the time of PyTorch divided by ours. The other is the floor, the minimum time that
    the peak rates of the device allow, divided by our time.

    Args:
        path: PNG file to write.
        rows: Results of the rows. Rows without times are left out.
        about: Names of the device and versions of the packages.

    Raises:
        ValueError: No row has a time.
    """
    drawn = [row for row in rows if row.ours is not None]
    if not drawn:
        raise ValueError("no row has a time: there is nothing to draw")
    positions = np.arange(len(drawn), dtype=float)
    height = 1.8 + 0.24 * len(drawn)
    colors = [_COLORS[_op(row)] for row in drawn]
    with style():
        from matplotlib.patches import Patch

        figure = new_figure(13.5, height, layout="constrained")
        figure.suptitle(
            f"{about['gpu']} · {about['driver']} · PyTorch {about['torch']} · cuDNN "
            f"{about['cudnn']} · medians, whiskers from the 20th to the 80th percentile",
            x=0.01,
            ha="left",
            fontsize=11,
            color="#555555",
        )
        ratios, floors = figure.subplots(1, 2, sharey=True, width_ratios=(1.4, 1))
        _ratios(ratios, positions, drawn, colors)
        shares = np.array([(row.floor or 0.0) / row.ours[0] for row in drawn if row.ours])
        floors.barh(positions, 100 * shares, 0.78, color=colors)
        floors.axvline(100, color=_EVEN, linewidth=1)
        floors.set_title("Floor by our time (%)")
        floors.set_xlim(0, max(105.0, 106 * float(shares.max())))
        ratios.set_yticks(positions, [row.key for row in drawn], fontsize=8.5)
        ratios.set_ylim(len(drawn) - 0.4, -0.6)
        for axes in (ratios, floors):
            axes.grid(axis="y", visible=False)
        present = {_op(row) for row in drawn}
        figure.legend(
            handles=[
                Patch(color=color, label=op) for op, color in _COLORS.items() if op in present
            ],
            loc="outside lower center",
            ncols=len(_COLORS),
        )
        write(figure, path)


def _op(row: Measured) -> str:
    return row.key.split(".")[1]


def _ratios(axes: Any, positions: Any, rows: Sequence[Measured], colors: list[str]) -> None:
    known = [(place, row.ratio) for place, row in zip(positions, rows, strict=True) if row.ratio]
    axes.set_title("Times as fast as PyTorch with cuDNN")
    axes.axvline(1, color=_EVEN, linewidth=1)
    if not known:
        return
    medians = np.array([ratio[0] for _, ratio in known])
    spread = np.array(
        [[max(middle - low, 0), max(high - middle, 0)] for _, (middle, low, high) in known]
    )
    limit = 1.18 * max(1.2, float(medians.max()))
    axes.barh(
        [place for place, _ in known],
        medians,
        0.78,
        color=[color for color, row in zip(colors, rows, strict=True) if row.ratio],
        xerr=spread.T,
        error_kw={"elinewidth": 1, "ecolor": _EVEN, "capsize": 1.5},
    )
    axes.set_xlim(0, limit)
    for place, ratio in known:
        axes.annotate(
            f"{ratio[0]:.2f}",
            (min(ratio[2], 0.93 * limit), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_EVEN,
        )
