"""Draw the figures of a training run as PNG files: training curves and confusion matrix."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

_TRAINING, _VALIDATION, _BEST = "#3b6ea8", "#d1603d", "#7a7a7a"
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "figure.facecolor": "white",
}
_MAX_CLASSES_WITH_NUMBERS = 30
_MAX_NAME = 24


def training_curves(path: Path, *, metrics: Path, evaluation: Path, title: str) -> None:
    """Draw the loss and other metrics of each epoch as curves.

    Args:
        path: The PNG file to write.
        metrics: `metrics.csv` of a run.
        evaluation: `evaluation.json` of a run, with its metrics, the best epoch and the monitored
            metric.
        title: Title of the figure.

    Raises:
        ValueError: A file has wrong content.
    """
    table, about = _columns(metrics), json.loads(evaluation.read_text(encoding="utf-8"))
    best_epoch, monitor = about["best_epoch"], about["monitor"]
    # Draw the metrics that have a training value, and the monitored metric. The others would have
    # only one curve each.
    shown = [
        metric
        for metric in about["metrics"]
        if metric["name"] in table or metric["name"] == monitor
    ]
    epochs = table["epoch"]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5 * len(shown), 4.2), dpi=150, layout="constrained")
        monitored = next(metric for metric in shown if metric["name"] == monitor)
        best = table[f"val_{monitor}"][epochs == best_epoch]
        value = _text(float(best[0]), monitored["percent"])
        figure.suptitle(
            f"{_plain(title)} · best validation {monitored['title']} {value} in epoch {best_epoch}",
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
            style = {"linewidth": 2, "markersize": 4, "marker": "o" if len(epochs) <= 30 else ""}
            curves = ((name, _TRAINING, "training"), (f"val_{name}", _VALIDATION, "validation"))
            for column, color, label in curves:
                if column in table:
                    axes.plot(epochs, table[column], color=color, label=label, **style)
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
        _write(figure, path)


def _columns(metrics: Path) -> dict[str, np.ndarray]:
    """Read `metrics.csv`. Return a (epochs,) float64 array per column, with NaN for empty cells."""
    with metrics.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    values = [[float(cell or "nan") for cell in row] for row in rows]
    return dict(zip(header, np.array(values, np.float64).T, strict=True))


def _text(value: float, percent: bool) -> str:
    return f"{value:.1%}" if percent else f"{value:.4g}"


def confusion_matrix(path: Path, *, table: Path, title: str) -> None:
    """Draw a confusion matrix.

    A cell contains a number of samples. Its colour shows their fraction of the true class.

    Args:
        path: The PNG file to write.
        table: CSV file with the names of the C classes in its first row and column, and the number
            of samples of each true class (row) and predicted class (column).
        title: Title of the figure.
    """
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        (_, *classes), *rows = csv.reader(file)
    confusion = np.array([row[1:] for row in rows], np.int64)
    count = len(classes)
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    names = [_shortened(name) for name in classes]
    side = float(np.clip(2.6 + 0.46 * count, 4.6, 18.0))
    with mpl.rc_context({**_STYLE, "axes.grid": False, "font.size": 10.5}):
        figure = Figure(figsize=(side, side), dpi=150)
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
        axes.set_title(_plain(title), pad=12, fontsize=12)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.2 if count <= 30 else 0.3)
        axes.tick_params(which="minor", length=0)
        if count <= _MAX_CLASSES_WITH_NUMBERS:
            _write_counts(axes, confusion, shares, 0.7 * 72 * side / count)
        bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0.0, 0.035, 1.0)))
        bar.set_label("Share of the true class")
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        bar.outline.set_visible(False)
        _write(figure, path)


def _write_counts(axes: Any, confusion: np.ndarray, shares: np.ndarray, cell: float) -> None:
    # Choose the font size so that the longest number fits into a cell. `cell` is the side of a cell
    # in points, and a digit is 0.65 times as wide as the font size.
    digits = len(str(int(confusion.max())))
    size = min(11.0, 0.8 * cell / (0.65 * digits))
    for (row, column), number in np.ndenumerate(confusion):
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


def _shortened(name: str) -> str:
    return _plain(name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…")


def _plain(text: str) -> str:
    # Escape dollar signs, because Matplotlib would draw the text between two of them as a formula.
    return text.replace("$", r"\$")


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # If its font lacks a letter of a class name, Matplotlib prints a warning and draws a box.
        # Hide the warning: the user can read the names in the CSV file.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)
