"""`cnnforge evaluate`: how good a run's model is, overall and per class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnnforge.cli._common import JsonOption, PluginOption, load_plugins, print_json


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Labelled data.  [default: the validation part of what the run was trained on]",
        ),
    ] = None,
    kernels: Annotated[
        str, typer.Option(metavar="auto|numba|keras", help="What computes the layers.")
    ] = "auto",
    plugin: PluginOption = None,
    json: JsonOption = False,
) -> None:
    """Evaluate a run's model: accuracy, and precision, recall and F1 of every class."""
    from cnnforge.cli._trained import open_trained

    trained = open_trained(run, kernels, plugin, load_plugins)
    import numpy as np

    from cnnforge.prediction import open_samples
    from cnnforge.tasks.classification import metrics

    predictor = trained.predictor
    inputs = open_samples(
        data or trained.data.reference,
        image_shape=predictor.image_shape,
        datasets=trained.plugins.datasets,
        trained_on=trained.data,
    )
    labels = inputs.labels(predictor.classes)
    parts = [part for _, part in predictor.classify(inputs.samples, inputs.indices)]
    result = metrics.evaluate(np.concatenate(parts), labels, predictor.classes)
    if json:
        print_json({"run": str(run), "data": inputs.what, **result.as_dict()})
        return
    from cnnforge.cli import _render

    numbers = zip(
        result.classes, result.precision, result.recall, result.f1, result.support, strict=True
    )
    _render.table(
        ["class", "precision", "recall", "F1", "images"],
        [[name, f"{p:.4f}", f"{r:.4f}", f"{f:.4f}", int(n)] for name, p, r, f, n in numbers],
        title=f"{inputs.what}: accuracy {result.accuracy:.2%}, loss {result.loss:.4f}",
    )
