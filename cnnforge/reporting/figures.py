"""Figures as PNG files. The only module that imports matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
_MOST_CELLS_WITH_NUMBERS = 30
_LONGEST_NAME = 24


def training_curves(
    path: Path,
    *,
    loss: Sequence[float],
    val_loss: Sequence[float],
    accuracy: Sequence[float],
    val_accuracy: Sequence[float],
    best_epoch: int,
    title: str,
) -> None:
    """Draw loss and accuracy over the epochs.

    Args:
        path: The PNG file to write.
        loss: Training loss of each epoch, in nats.
        val_loss: Validation loss.
        accuracy: Training accuracy, 0 to 1.
        val_accuracy: Validation accuracy.
        best_epoch: The epoch, from 1, whose model was kept.
        title: What stands above.
    """
    epochs = np.arange(1, len(loss) + 1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
        best = val_accuracy[best_epoch - 1]
        figure.suptitle(
            f"{_plain(title)} · best validation accuracy {best:.1%} in epoch {best_epoch}",
            x=0.01,
            ha="left",
            fontsize=11,
            color="#555555",
        )
        pair = figure.subplots(1, 2)
        panels = (("Loss (nats)", loss, val_loss), ("Accuracy", accuracy, val_accuracy))
        for axes, (name, training, validation) in zip(pair, panels, strict=True):
            axes.axvline(best_epoch, color=_BEST, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            style = {"linewidth": 2, "markersize": 4, "marker": "o" if len(epochs) <= 30 else ""}
            axes.plot(epochs, training, color=_TRAINING, label="training", **style)
            axes.plot(epochs, validation, color=_VALIDATION, label="validation", **style)
            axes.set_title(name)
            axes.set_xlabel("Epoch")
            axes.set_xlim(0.5, len(epochs) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        pair[0].set_ylim(0, 1.06 * max(*loss, *val_loss))
        pair[0].legend(loc="upper right", frameon=True, edgecolor="none", framealpha=1.0)
        pair[1].yaxis.set_major_formatter(PercentFormatter(1.0))
        pair[1].plot(best_epoch, best, "o", markersize=10, fillstyle="none", color=_VALIDATION)
        _write(figure, path)


def confusion_matrix(
    path: Path, *, confusion: np.ndarray, classes: Sequence[str], title: str
) -> None:
    """Draw a confusion matrix: counts as numbers, shares of the true class as colours.

    Args:
        path: The PNG file to write.
        confusion: (C, C) int; row: the true class, column: the predicted one.
        classes: The C names.
        title: What stands above.
    """
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
        if count <= _MOST_CELLS_WITH_NUMBERS:
            _write_counts(axes, confusion, shares, 0.7 * 72 * side / count)
        bar = figure.colorbar(image, cax=axes.inset_axes((1.03, 0.0, 0.035, 1.0)))
        bar.set_label("Share of the true class")
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        bar.outline.set_visible(False)
        _write(figure, path)


def _write_counts(axes: Any, confusion: np.ndarray, shares: np.ndarray, cell: float) -> None:
    # `cell` is the side of a cell in points; a digit is about 0.65 of its size wide.
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
    return _plain(name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…")


def _plain(text: str) -> str:
    # A dollar sign would start a formula.
    return text.replace("$", r"\$")


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes; the CSV has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15)
