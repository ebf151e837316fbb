"""Draw the figures of a detector's run: curves, validation images, and statistics of the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnforge.data import Dataset, letterbox
from cnnforge.reporting.drawing import new_figure, style, write
from cnnforge.reporting.lettering import lettering
from cnnforge.tasks.detection.coco import Matches
from cnnforge.tasks.detection.drawing import BoxPainter
from cnnforge.tasks.detection.metrics import DetectionEvaluation

# Colors that differ for readers who confuse red and green, too (M. Okabe and K. Ito, 2008).
_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
_GRAY, _DARK = "#9a9a9a", "#333333"
# Max number of classes with a color and an entry in the legend.
_MAX_NAMED = 7
_MAX_IMAGES = 8
_MAX_BARS = 30
# Min size of the letters in a validation image, in pixels of 480 or more.
_LETTER = 20


def curves(path: Path, evaluation: DetectionEvaluation, title: str) -> None:
    """Draw precision over recall of each class, and precision, recall and F1 over the confidence.

    Args:
        path: The PNG file to write.
        evaluation: The evaluation.
        title: Title of the figure.
    """
    numbers = evaluation.numbers
    found = [(label, numbers.curve(label)) for label in range(len(evaluation.classes))]
    known = [(label, curve[0]) for label, curve in found if curve is not None]
    recalls = np.linspace(0, 1, 101)
    with style():
        import matplotlib as mpl

        letters = lettering(evaluation.classes)
        mpl.rcParams["font.family"] = letters.families
        figure = new_figure(10.5, 4.4, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color="#555555")
        left, right = figure.subplots(1, 2)
        named = len(known) <= _MAX_NAMED
        for place, (label, precision) in enumerate(known):
            look: dict[str, Any] = {"color": _GRAY, "linewidth": 0.8, "alpha": 0.7}
            if named:
                look = {"color": _COLORS[place], "linewidth": 1.3, "label": letters.names[label]}
            left.plot(recalls, precision, **look)
        if not named:
            left.plot([], [], color=_GRAY, linewidth=0.8, label="each class")
        mean = np.mean([precision for _, precision in known], axis=0)
        left.plot(recalls, mean, color=_DARK, linewidth=2.4, label="mean of the classes")
        left.set_title("Precision over recall, IoU 0.5")
        left.set_xlabel("Recall")
        left.set_ylabel("Precision")
        left.legend(loc="lower left", fontsize=9, frameon=True, edgecolor="none")
        confidences = np.linspace(0.01, 1, 100)
        lines = _over_confidence(numbers.matches, confidences)
        for name, color, values in zip(
            ("precision", "recall", "F1"), (_COLORS[1], _COLORS[0], _DARK), lines, strict=True
        ):
            width = 2.4 if name == "F1" else 1.6
            right.plot(confidences, values, color=color, linewidth=width, label=name)
        threshold = evaluation.threshold
        right.axvline(threshold, color=_GRAY, linewidth=1, linestyle=(0, (4, 3)))
        right.set_title(f"Confidence {threshold:.2f}: F1 {evaluation.overall.f1:.3f}")
        right.set_xlabel("Min confidence")
        right.legend(loc="upper right", fontsize=9, frameon=True, edgecolor="none")
        for axes in (left, right):
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.02)
        write(figure, path)


def _over_confidence(
    matches: Matches, confidences: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1 of all objects together; precision is NaN if undefined."""
    order = np.argsort(matches.scores)
    first = np.searchsorted(matches.scores[order], confidences)
    counts = len(order) - first
    right = np.append(np.cumsum(matches.right[order][::-1])[::-1], 0)[first]
    objects = matches.objects.sum()
    with np.errstate(invalid="ignore"):
        return right / counts, right / objects, 2 * right / (counts + objects)


def truth_and_found(path: Path, evaluation: DetectionEvaluation, title: str) -> None:
    """Draw some validation images, each with its true objects and with those that were found.

    Args:
        path: The PNG file to write.
        evaluation: The evaluation.
        title: Title of the figure.
    """
    samples, indices = evaluation.inputs
    count = min(_MAX_IMAGES, len(indices))
    chosen = np.unique(np.linspace(0, len(indices) - 1, count).astype(np.int64))
    images = samples.fetch(indices[chosen])
    height, width = images.shape[1:3]
    columns = 4 if len(chosen) > 1 else 2
    rows = -(-2 * len(chosen) // columns)
    with style({"axes.grid": False, "font.size": 9}):
        painter = BoxPainter(evaluation.classes)
        side = 2.7
        figure = new_figure(
            side * columns, side * height / width * rows + 0.6, layout="constrained"
        )
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color="#555555")
        grid = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for axes in grid:
            axes.set_axis_off()
        for place, (number, image) in enumerate(zip(chosen, images, strict=True)):
            size = evaluation.sizes[number]
            placement = letterbox((size[0], size[1]), (height, width))
            truth = evaluation.truth[number]
            found = evaluation.found[number].at_least(evaluation.threshold)
            for axes, heading, objects, scores in (
                (grid[2 * place], "truth", truth, None),
                (grid[2 * place + 1], "found", found, found.scores),
            ):
                picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
                boxes = placement.to_model(objects.boxes)
                axes.imshow(painter.draw(picture, boxes, objects.labels, scores, letter=_LETTER))
                if place < columns // 2:
                    axes.set_title(heading, fontsize=9, fontweight="normal", color="#555555")
        write(figure, path)


def labels(path: Path, dataset: Dataset, title: str) -> None:
    """Draw the numbers, the sizes and the places of the training objects.

    Args:
        path: The PNG file to write.
        dataset: The dataset.
        title: Title of the figure.
    """
    samples: Any = dataset.train
    counts = [len(each) for each in samples.labels]
    boxes = np.concatenate([np.empty((0, 4)), *samples.boxes])
    classes = np.concatenate([np.empty(0, np.int64), *samples.labels]).astype(np.int64)
    sizes = np.repeat(np.asarray(samples.sizes), counts, axis=0)[:, ::-1]
    per_class = np.bincount(classes, minlength=len(dataset.classes))
    shown = np.argsort(-per_class, kind="stable")[:_MAX_BARS]
    with style():
        import matplotlib as mpl
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        letters = lettering([dataset.classes[label] for label in shown])
        mpl.rcParams["font.family"] = letters.families
        figure = new_figure(13.5, 4.4, layout="constrained")
        figure.suptitle(
            f"{title} · {len(classes)} objects in {len(samples)} images",
            x=0.01,
            ha="left",
            fontsize=11,
            color="#555555",
        )
        bars, scatter, places = figure.subplots(1, 3)
        bars.barh(range(len(shown)), per_class[shown], color="#3b6ea8")
        bars.set_yticks(range(len(shown)), letters.names, fontsize=10 if len(shown) <= 15 else 7)
        bars.invert_yaxis()
        bars.grid(axis="y", visible=False)
        bars.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        most = f", {_MAX_BARS} of {len(per_class)} classes" if len(shown) < len(per_class) else ""
        bars.set_title(f"Objects per class{most}")
        relative = (boxes[:, 2:] - boxes[:, :2]) / sizes
        scatter.scatter(*relative.T, s=6, alpha=0.35, color="#3b6ea8", linewidths=0)
        scatter.set_title("Size of the boxes")
        scatter.set_xlabel("Width, share of the image")
        scatter.set_ylabel("Height, share of the image")
        for axis in (scatter.xaxis, scatter.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        scatter.set_xlim(left=0)
        scatter.set_ylim(bottom=0)
        middle = (boxes[:, 2:] + boxes[:, :2]) / 2 / sizes
        bins = int(np.clip(np.sqrt(len(boxes) / 4), 5, 32))
        density = np.histogram2d(middle[:, 1], middle[:, 0], bins, ((0, 1), (0, 1)))[0]
        places.imshow(density, cmap="Blues", vmin=0, extent=(0, 1, 1, 0), aspect="equal")
        places.grid(visible=False)
        places.set_title("Middles of the boxes")
        for axis in (places.xaxis, places.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        write(figure, path)
