"""The web page of `cnnforge explain` for a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from cnnforge.data import letterbox
from cnnforge.errors import RunError, UsageError
from cnnforge.explaining import why
from cnnforge.explaining.building import Explained, Subject, build, common_data, short
from cnnforge.explaining.network import describe
from cnnforge.explaining.network_data import network_data
from cnnforge.explaining.steps import Step, all_values, output_steps
from cnnforge.pages import asset, packed
from cnnforge.tasks.detection import Detection
from cnnforge.tasks.detection.decoding import CANDIDATES, Found, decode_with_cells
from cnnforge.tasks.detection.losses import MAX_LOG
from cnnforge.tasks.detection.metrics import to_original
from cnnforge.tasks.detection.targets import levels_of

MAX_CELLS = 90_000
"""Max number of cells of the maps of a detector in a page: those of a picture of 1024x1024."""
_TARGETS = 3
# Number of multiplications from which on the maps that show why are made for one object only.
_LARGE = 1e9
_LINKS = {"heat-part": "Heat", "distances-part": "Distances", "boxes-part": "Boxes"}
# Max number of bytes of the maps that Keras computed: in a page that computes the network they are
# for the comparison only.
_MAX_COMPARED, _MAX_SHOWN = 300_000, 600_000
_STORED_BYTES = 1_200_000


class Cell(NamedTuple):
    """A value of the heat: the map, the row, the column and the class."""

    level: int
    row: int
    column: int
    label: int


def explain_objects(steps: Sequence[Step], subject: Subject, task: Detection) -> Explained:
    """Make the page of a detector and a picture.

    Args:
        steps: Steps of the network, see `divide`.
        subject: The picture and the run.
        task: The task of the run.

    Returns:
        The page.

    Raises:
        RunError: The network does not return the maps of the task.
        UsageError: The maps are too large for a page.
    """
    _check_maps(steps, subject, task)
    network = describe(steps)
    values = all_values(steps, subject.image)
    places = output_steps(steps)
    outputs = [values[at] for at in places]
    options = task.prediction_options
    ((found, at_cells),) = decode_with_cells(
        [each[None] for each in outputs],
        task.image_size,
        confidence=options["confidence"],
        overlap=options["overlap"],
        max_detections=int(options["max_detections"]),
    )
    work = network.multiplications
    cells = cells_of(found, at_cells)[: _TARGETS if work < _LARGE else 1] or [_highest(outputs)]
    scores = [*steps, _logits(places, cells)]
    # The gradients of a score are those of one place, so Grad-CAM has no layers here.
    maps = why.explain(scores, subject.image, range(len(cells)), [], multiplications=work)
    data, left_out = network_data(
        network, values, scores, subject.image, 0, stored_bytes=_STORED_BYTES
    )
    targets = {at: _about(cell, outputs, task) for at, cell in enumerate(cells)}
    data |= common_data(network, subject, task.classes, maps, targets)
    limit, dtype = (_MAX_COMPARED, np.float32) if data["alive"] else (_MAX_SHOWN, np.float16)
    shown = shown_classes(outputs, limit // np.dtype(dtype).itemsize)
    if not data["alive"] and len(shown) < len(task.classes):
        left_out.append(
            f"The heat of {len(task.classes) - len(shown)} of {len(task.classes)} classes: that of "
            "the others is higher."
        )
    channels = [*shown, *range(len(task.classes), len(task.classes) + 4)]
    levels = levels_of([(1, *each.shape) for each in outputs], task.image_size)
    size = subject.loaded.shape[0], subject.loaded.shape[1]
    placed = letterbox(size, task.image_size)
    data["objects"] = {
        "levels": [
            {
                "operation": operation,
                "stride": level.stride,
                "rows": level.height,
                "columns": level.width,
                "values": packed(np.ascontiguousarray(values[..., channels], dtype)),
            }
            for operation, level, values in zip(network.outputs, levels, outputs, strict=True)
        ],
        "classes": shown,
        "options": dict(options),
        "candidates": max(CANDIDATES, int(options["max_detections"])),
        "maxLog": MAX_LOG,
        "python": {
            "boxes": found.boxes.tolist(),
            "labels": found.labels.tolist(),
            "scores": found.scores.tolist(),
        },
        "original": [*size, placed.scale_x, placed.scale_y, placed.left, placed.top],
    }
    text = build(
        network,
        subject,
        data,
        left_out,
        answer=asset("explain-objects.html"),
        end="",
        links=(_LINKS, {}),
        scripts=["explain-objects.js"],
    )
    objects = [
        {"class": task.classes[label], "confidence": float(score), "box": box.tolist()}
        for box, label, score in zip(*to_original(found, size, task.image_size), strict=True)
    ]
    labels = {at: task.classes[cell.label] for at, cell in enumerate(cells)}
    return Explained(
        text, {"objects": objects}, _summary(objects), maps, labels, bool(data["alive"]), left_out
    )


def _check_maps(steps: Sequence[Step], subject: Subject, task: Detection) -> None:
    shapes = [steps[at].shape for at in output_steps(steps)]
    channels = len(task.classes) + 4
    problem = ""
    if any(len(shape) != 3 or shape[2] != channels for shape in shapes):
        problem = f"expected maps with {channels} channels"
    elif steps[0].shape[:2] != task.image_size:
        problem = f"its pictures are {steps[0].shape[0]}x{steps[0].shape[1]}"
    else:
        try:
            levels_of([(1, *shape) for shape in shapes], task.image_size)
        except ValueError as error:
            problem = str(error)
    if problem:
        raise RunError(
            f"the network of {subject.run} returns values of the shapes {shapes}, and the run has "
            f"{len(task.classes)} classes and pictures of {task.image_size[0]}x"
            f"{task.image_size[1]}: {problem}; model.keras and detection.json do not belong "
            "together; restore them"
        )
    cells = sum(shape[0] * shape[1] for shape in shapes)
    if cells > MAX_CELLS:
        raise UsageError(
            f"the maps of {subject.run} have {cells:,} cells, and a page holds {MAX_CELLS:,}: "
            "choose a run with a smaller --image-size, see 'cnnforge runs'"
        )


def cells_of(found: Found, cells: np.ndarray) -> list[Cell]:
    """Return the cells of the maps in which objects were found.

    Args:
        found: The objects.
        cells: (k, 3) int, the map, the row and the column of each.
    """
    return [
        Cell(level, row, column, int(label))
        for (level, row, column), label in zip(cells.tolist(), found.labels, strict=True)
    ]


def _highest(outputs: Sequence[np.ndarray]) -> Cell:
    """Return the cell with the highest heat, for a picture without objects."""
    highest = [float(each[..., :-4].max()) for each in outputs]
    level = int(np.argmax(highest))
    heat = outputs[level][..., :-4]
    row, column, label = np.unravel_index(int(heat.argmax()), heat.shape)
    return Cell(level, int(row), int(column), int(label))


def _logits(places: Sequence[int], cells: Sequence[Cell]) -> Step:
    """Return a step whose value has the logit of each cell."""

    def call(values: Sequence[Any]) -> Any:
        return keras.ops.stack(
            [values[places[it.level]][:, it.row, it.column, it.label] for it in cells], axis=-1
        )

    used = tuple({places[it.level] for it in cells})
    return Step("objects", None, None, used, (len(cells),), call)


def _about(cell: Cell, outputs: Sequence[np.ndarray], task: Detection) -> str:
    heat = 1 / (1 + np.exp(-float(outputs[cell.level][cell.row, cell.column, cell.label])))
    name = short(task.classes[cell.label])
    return f"{name}, {heat:.1%}, at row {cell.row + 1}, column {cell.column + 1} of the heat"


def shown_classes(outputs: Sequence[np.ndarray], limit: int) -> list[int]:
    """Choose the classes whose heat a page contains: those with the highest heat.

    Args:
        outputs: (h, w, C + 4) float32, the maps.
        limit: Max number of values.

    Returns:
        Indices of classes, at least one, sorted.
    """
    cells = sum(each[..., 0].size for each in outputs)
    highest = np.max([each[..., :-4].max((0, 1)) for each in outputs], axis=0)
    count = max(1, limit // cells - 4)
    return sorted(int(label) for label in np.argsort(-highest, kind="stable")[:count])


def _summary(objects: Sequence[dict[str, Any]]) -> str:
    if not objects:
        return "no objects"
    listed = [f"{each['class']} with {each['confidence']:.1%}" for each in objects[:5]]
    more = ", ..." if len(objects) > 5 else ""
    counted = "1 object" if len(objects) == 1 else f"{len(objects)} objects"
    return f"{counted}: {', '.join(listed)}{more}"
