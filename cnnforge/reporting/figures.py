"""Draw the figures of a training run as PNG files: training curves and confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnforge.reporting.drawing import new_figure, style, write
from cnnforge.reporting.lettering import lettering

_TRAINING, _VALIDATION, _BEST = "#3b6ea8", "#d1603d", "#7a7a7a"
_MAX_CLASSES_WITH_NUMBERS = 30


def training_curves(
    path: Path,
    *,
    history: Sequence[Mapping[str, float]],
    metrics: Sequence[Mapping[str, Any]],
    monitor: str,
    best_epoch: int,
    title: str,
) -> None:
    """Draw the loss and other metrics of each epoch as curves.

    Args:
        path: The PNG file to write.
        history: The values of each epoch by column name: `epoch`, and for each metric `NAME` of the
            training part, if it was measured, and `val_NAME` of the validation part.
        metrics: `name`, `title` and `percent` of each metric.
        monitor: Name of the metric that selects the best epoch.
        best_epoch: Number of the best epoch, from 1.
        title: Title of the figure.
    """
    table = _columns(history)
    # Draw the metrics that have a training value, and the monitored metric. The others would have
    # only one curve each.
    shown = [metric for metric in metrics if metric["name"] in table or metric["name"] == monitor]
    epochs = table["epoch"]
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with style():
        figure = new_figure(5 * len(shown), 4.2, layout="constrained")
        monitored = next(metric for metric in shown if metric["name"] == monitor)
        best = table[f"val_{monitor}"][epochs == best_epoch]
        value = _text(float(best[0]), monitored["percent"])
        figure.suptitle(
            f"{title} · best validation {monitored['title']} {value} in epoch {best_epoch}",
            x=0.01,
            ha="left",
            fontsize=11,
            color="#555555",
        )
        for axes, metric in zip(
            figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
        ):
            name = metric["name"]
            axes.axvline(best_epoch, color=_BEST, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            look = {"linewidth": 2, "markersize": 4, "marker": "o" if len(epochs) <= 30 else ""}
            curves = ((name, _TRAINING, "training"), (f"val_{name}", _VALIDATION, "validation"))
            for column, color, label in curves:
                if column in table:
                    axes.plot(epochs, table[column], color=color, label=label, **look)
            axes.set_title(
                metric["title"].capitalize() if metric["title"].islower() else metric["title"]
            )
            axes.set_xlabel("Epoch")
            axes.set_xlim(0.5, len(epochs) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if metric["percent"]:
                axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            elif min(np.nanmin(line.get_ydata()) for line in axes.lines[1:]) >= 0:
                axes.set_ylim(bottom=0)
            if name == monitor:
                axes.plot(best_epoch, best, "o", markersize=10, fillstyle="none", color=_VALIDATION)
            if axes is figure.axes[0]:
                axes.legend(loc="upper right", frameon=True, edgecolor="none", framealpha=1.0)
        write(figure, path)


def _columns(history: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Return a (epochs,) float64 array per column, with NaN for values that were not measured."""
    # The last epoch has all columns. If an older version began the run, its epochs have fewer.
    return {
        name: np.array([row.get(name, np.nan) for row in history], np.float64)
        for name in history[-1]
    }


def _text(value: float, percent: bool) -> str:
    return f"{value:.1%}" if percent else f"{value:.4g}"


def confusion_matrix(
    path: Path, *, classes: Sequence[str], counts: np.ndarray, title: str
) -> list[str]:
    """Draw a confusion matrix.

    A cell contains a number of samples. Its colour shows their fraction of the true class. If no
    installed font has the letters of a class name, the name is written in Latin letters after the
    number of the class, counted from 1.

    Args:
        path: The PNG file to write.
        classes: The names of the C classes.
        counts: (C, C) int64, the number of samples of each true class (row) and predicted class
            (column).
        title: Title of the figure.

    Returns:
        The class names that are written in Latin letters.
    """
    count = len(classes)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = float(np.clip(2.6 + 0.46 * count, 4.6, 18.0))
    with style({"axes.grid": False, "font.size": 10.5}):
        import matplotlib as mpl
        from matplotlib.ticker import PercentFormatter

        letters = lettering(classes)
        mpl.rcParams["font.family"] = letters.families
        names = letters.names
        figure = new_figure(side, side)
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        step = -(-count // 60)
        slanted = max(map(len, names)) > 3
        axes.set_xticks(
            range(0, count, step),
            names[::step],
            rotation=45 if slanted else 0,
            ha="right" if slanted else "center",
            rotation_mode="anchor",
        )
        axes.set_yticks(range(0, count, step), names[::step])
        axes.set_xlabel("Predicted class")
        axes.set_ylabel("True class")
        axes.set_title(title, pad=12, fontsize=12)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.2 if count <= 30 else 0.3)
        axes.tick_params(which="minor", length=0)
        if count <= _MAX_CLASSES_WITH_NUMBERS:
            _write_counts(axes, counts, shares, 0.7 * 72 * side / count)
        bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0.0, 0.035, 1.0)))
        bar.set_label("Share of the true class")
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        bar.outline.set_visible(False)
        write(figure, path)
    return letters.replaced


def _write_counts(axes: Any, counts: np.ndarray, shares: np.ndarray, cell: float) -> None:
    # Choose the font size so that the longest number fits into a cell. `cell` is the side of a cell
    # in points, and a digit is 0.65 times as wide as the font size.
    digits = len(str(int(counts.max())))
    size = min(11.0, 0.8 * cell / (0.65 * digits))
    for (row, column), number in np.ndenumerate(counts):
        if number:
            axes.text(
                column,
                row,
                f"{number}",
                ha="center",
                va="center",
                fontsize=size,
                color="white" if shares[row, column] > 0.55 else "#222222",
                fontweight="bold" if row == column else "normal",
            )
