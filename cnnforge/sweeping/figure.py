"""Draw the trials of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnforge.reporting.drawing import new_figure, style, write
from cnnforge.sweeping.results import SweepResult, TrialRow
from cnnforge.sweeping.space import Dimension

_DONE, _PRUNED, _BEST = "#3b6ea8", "#a0a0a0", "#d1603d"
_MAX_DIMENSIONS = 5
_WIDE = 300


def draw(path: Path, result: SweepResult, space: Sequence[Dimension]) -> None:
    """Draw the value of each trial: in their order, and over each dimension.

    Args:
        path: The PNG file to write.
        result: The result, with at least one value.
        space: The dimensions. The most important five are drawn.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    rank = {name: place for place, name in enumerate(result.importance)}
    shown = sorted(space, key=lambda each: rank.get(each.name, len(rank)))[:_MAX_DIMENSIONS]
    columns = 2 if len(shown) in (1, 3) else 3
    lines = -(-(1 + len(shown)) // columns)
    known = [each for each in result.trials if each.value is not None]
    with style():
        figure = new_figure(4.2 * columns, 3.6 * lines, layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid[1 + len(shown) :]:
            axes.set_visible(False)
        _over_trials(grid[0], result, known)
        grid[0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for axes, dimension in zip(grid[1:], shown, strict=False):
            _over_values(axes, dimension, known, result)
        for axes in grid[: 1 + len(shown)]:
            if result.metric.percent:
                axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=_decimals(known)))
        grid[0].set_ylabel(f"validation {result.metric.title}")
        write(figure, path)


def _decimals(known: Sequence[TrialRow]) -> int:
    values = [each.value for each in known if each.value is not None]
    return 1 if max(values) - min(values) < 0.05 else 0


def _over_trials(axes: Any, result: SweepResult, known: Sequence[TrialRow]) -> None:
    best = max if result.metric.best == "max" else min
    numbers, values = [], []
    for each in known:
        if each.state == "done" and each.value is not None:
            numbers.append(each.number)
            values.append(each.value if not values else best(values[-1], each.value))
    axes.step(numbers, values, where="post", color=_BEST, linewidth=1.5, label="best so far")
    _scatter(axes, [each.number for each in known], known)
    axes.set_xlabel("trial")
    axes.set_title("All trials")
    axes.legend(loc="best", frameon=True, edgecolor="none", framealpha=0.8, fontsize=8)


def _over_values(
    axes: Any, dimension: Dimension, known: Sequence[TrialRow], result: SweepResult
) -> None:
    texts = dimension.text.split(",") if dimension.choices else []
    places: list[Any] = [each.values[dimension.name] for each in known]
    if dimension.choices:
        places = [dimension.choices.index(place) for place in places]
        axes.set_xticks(range(len(texts)), texts)
        axes.set_xlim(-0.5, len(texts) - 0.5)
    elif dimension.log:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        # Plain numbers: the style of cnnforge draws no mathematical text.
        axes.set_xscale("log")
        wide = dimension.high / dimension.low > _WIDE
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    _scatter(axes, places, known)
    axes.set_xlabel(dimension.name)
    share = result.importance.get(dimension.name)
    axes.set_title("" if share is None else f"importance {share:.0%}")


def _scatter(axes: Any, places: Sequence[Any], known: Sequence[TrialRow]) -> None:
    for state, color, marker in (("pruned", _PRUNED, "x"), ("done", _DONE, "o")):
        chosen = [at for at, each in enumerate(known) if each.state == state]
        axes.plot(
            [places[at] for at in chosen],
            [known[at].value for at in chosen],
            marker,
            color=color,
            markersize=5,
            label=state if chosen else None,
        )
