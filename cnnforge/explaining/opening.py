"""Open the network of a run as steps, and find training pictures that are similar to another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnnforge.conversion import lower
from cnnforge.conversion.matching import plugin_layers
from cnnforge.errors import CnnforgeError, UsageError, one_line
from cnnforge.explaining.network import describe
from cnnforge.explaining.page import Similar
from cnnforge.explaining.steps import Step, divide
from cnnforge.explaining.sure import nearest, number_of_pictures
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction import RunData
from cnnforge.prediction.keras_model import load_model
from cnnforge.prediction.samples import training_samples
from cnnforge.runs import RunDirectory


def open_steps(run: RunDirectory, plugins: Plugins, *, several: bool = False) -> list[Step]:
    """Open the network of a run, with stock layers, and divide it into steps.

    Args:
        run: The run.
        plugins: All plugins.
        several: Whether the network may have several outputs.

    Raises:
        UsageError: The network does not take one picture, or cannot be divided into layers.
        RunError: The network cannot be opened.
    """
    model = load_model(run.model, plugins.layers)
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:]:
        raise UsageError(
            f"the network of {run.path} takes inputs of the shapes {shapes}, expected one picture "
            "(None, H, W, C): choose another run, see 'cnnforge runs'"
        )
    if plugin_layers(model, plugins.layers):
        # A layer that fuses several would hide the maps between them.
        model = lower(model, layers=plugins.layers)
    return divide(model, several=several)


def image_shape(steps: Sequence[Step]) -> tuple[int, int, int]:
    """Return the (H, W, C) of the pictures that a network takes."""
    height, width, channels = steps[0].shape
    return height, width, channels


def similar_pictures(
    steps: Sequence[Step], image: np.ndarray, trained_on: RunData, plugins: Plugins
) -> Similar:
    """Find the training pictures of a run that are most similar to a picture.

    Args:
        steps: Steps of the network.
        image: (H, W, C) uint8.
        trained_on: The data of the run.
        plugins: All plugins.

    Returns:
        The pictures, or the reason for which there is not any: the data are gone or have changed.
    """
    height, width, channels = image.shape
    try:
        found = training_samples(
            trained_on, (height, width, channels), plugins.datasets, plugins.tasks
        )
        available = len(found.indices)
        count = number_of_pictures(available, describe(steps).multiplications)
        chosen = found.indices
        if count < available:
            chosen = np.sort(np.random.default_rng(0).choice(chosen, count, replace=False))
        neighbors = nearest(steps, image, found.samples, chosen)
    except (CnnforgeError, OSError) as error:
        return Similar(problem=f"the data of the run cannot be read: {one_line(error)}")
    labels = getattr(found.samples, "labels", None)
    if labels is None:
        return Similar(problem="the data of the run have no labels")
    names = [found.dataset.classes[int(labels[each.index])] for each in neighbors]
    return Similar(neighbors, names, count, available)
