"""Open the network of a run as steps, and find training pictures that are similar to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnforge.conversion import lower
from cnnforge.conversion.matching import plugin_layers
from cnnforge.data.images import read_image
from cnnforge.data.stored import ImageSource
from cnnforge.errors import CnnforgeError, RunError, UsageError, one_line
from cnnforge.explaining.building import Explained, Subject
from cnnforge.explaining.network import describe
from cnnforge.explaining.objects_page import explain_objects
from cnnforge.explaining.page import Similar, explain_classes
from cnnforge.explaining.steps import Step, divide
from cnnforge.explaining.sure import nearest, number_of_pictures
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.prediction import RunData
from cnnforge.prediction.keras_model import load_model
from cnnforge.prediction.samples import training_samples
from cnnforge.runs import RunDirectory
from cnnforge.tasks import open_task
from cnnforge.tasks.detection import Detection


def explain_picture(
    run: RunDirectory,
    trained_on: RunData,
    plugins: Plugins,
    source: ImageSource,
    loaded: np.ndarray,
    name: str,
) -> Explained:
    """Make the page of a picture and the network of a run.

    Args:
        run: The run.
        trained_on: The data of the run.
        plugins: All plugins.
        source: File of the picture.
        loaded: (H, W, 1 or 3) uint8, the picture in its own size.
        name: Name of the picture.

    Returns:
        The page.

    Raises:
        UsageError: See `open_steps`.
        RunError: The network cannot be opened, or has another number of classes than the run.
        UnreadableImage: The picture cannot be read.
    """
    task: Any = open_task(run, plugins.tasks)
    steps = open_steps(run, plugins, several=isinstance(task, Detection))
    subject = Subject(
        read_image(source, image_shape(steps), task.placing),
        loaded,
        name=name,
        model=str(run.read_config()[0].get("model", "network")),
        run=run.path.name,
    )
    if isinstance(task, Detection):
        return explain_objects(steps, subject, task)
    if steps[-1].shape != (len(task.classes),):
        raise RunError(
            f"the network of {run.path} returns {steps[-1].shape} values, and the run has "
            f"{len(task.classes)} classes: model.keras and classes.json do not belong together; "
            "restore them"
        )
    similar = similar_pictures(steps, subject.image, trained_on, plugins)
    return explain_classes(steps, subject, task.classes, similar)


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
