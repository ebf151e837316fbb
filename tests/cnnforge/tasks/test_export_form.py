"""The forms in which models are exported."""

from typing import Any

import numpy as np
import pytest

from cnnforge.tasks import ExportForm
from cnnforge.tasks.detection.export_form import BoxExportForm

BOXES = BoxExportForm(
    ["cat", "dog"], (32, 32), {"confidence": 0.5, "overlap": 0.5, "max_detections": 9}
)


def test_outputs_without_names_are_numbered() -> None:
    form, arrays = ExportForm(), [np.zeros((2, 3)), np.array([[1.0], [np.nan]])]
    named = form.outputs(arrays)
    assert list(named) == ["output_0", "output_1"]
    assert form.answers(named) is None
    moved = {"output_0": arrays[0] + 0.5, "output_1": arrays[1]}
    assert form.differences(named, moved) == {"output_0": 0.5, "output_1": 0.0}
    broken = {**named, "output_1": np.zeros((2, 1))}
    assert np.isnan(form.differences(named, broken)["output_1"])


def test_boxes_are_those_of_the_maps() -> None:
    maps = np.full((2, 8, 8, 6), -9.0, np.float32)
    maps[..., 2:] = 0
    maps[0, 2, 3, 1] = maps[0, 6, 6, 0] = 5
    found = BOXES.outputs([maps])
    assert found["boxes"].shape == (2, 2, 4)
    assert BOXES.answers(found) == ["1 cat, 1 dog", "nothing"]
    assert sorted(found["boxes"][0].tolist())[0] == [10, 6, 18, 14]


def objects(*given: tuple[list[float], int, float]) -> dict[str, np.ndarray]:
    boxes, classes, confidences = zip(*given, strict=True)
    return {
        "boxes": np.array([boxes], np.float32),
        "classes": np.array([classes], np.int32),
        "confidences": np.array([confidences], np.float32),
    }


def test_objects_are_compared_in_any_order() -> None:
    one: Any = ([0, 0, 4, 4], 0, 0.9)
    other: Any = ([8, 8, 16, 16], 0, 0.9)
    near: Any = ([8, 8, 16, 16.25], 0, 0.875)
    found = BOXES.differences(objects(one, other), objects(near, one))
    assert found == {"boxes": 0.25, "confidences": pytest.approx(0.025)}
    assert BOXES.answers(objects(one, ([0, 0, 1, 1], 1, 0.0))) == ["1 cat"]
    # An image with other objects is a flip, and not compared.
    assert BOXES.differences(objects(one, other), objects(one, ([8, 8, 9, 9], 1, 0.9))) == {
        "boxes": 0.0,
        "confidences": 0.0,
    }
    with pytest.raises(ValueError, match="the output confidences is missing"):
        BOXES.differences(objects(one), {"boxes": np.zeros(0), "classes": np.zeros(0)})
