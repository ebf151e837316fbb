"""The options of predictions."""

import pytest

from cnnforge.errors import UsageError
from cnnforge.tasks import Task, prediction_options
from cnnforge.tasks.classification import Classification
from cnnforge.tasks.detection import Detection

CLASSES = Classification(["a", "b"])
BOXES = Detection(["a"], (32, 32), confidence=0.4)


def test_defaults_are_those_of_the_task() -> None:
    assert prediction_options(CLASSES, {}) == {"top_k": 3}
    assert prediction_options(CLASSES, {"top_k": None}) == {"top_k": 3}
    assert prediction_options(CLASSES, {"top_k": 1}) == {"top_k": 1}
    expected = {"confidence": 0.4, "overlap": 0.5, "max_detections": 100}
    assert prediction_options(BOXES, {}) == expected
    assert prediction_options(BOXES, {"confidence": 1}) == {**expected, "confidence": 1.0}
    assert prediction_options(Detection(["a"], (8, 8)), {})["confidence"] == 0.25


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        (CLASSES, {"confidence": 0.5}, "confidence is not an option of predictions of the task C"),
        (CLASSES, {"confidence": 0.5}, "its options are top_k"),
        (BOXES, {"top_k": 1}, "its options are confidence, overlap, max_detections"),
        (BOXES, {"max_detection": 1}, "did you mean max_detections?"),
        (Task(), {"top_k": 1}, "it has no options"),
        (CLASSES, {"top_k": 0}, "top_k must be a number of classes, 1 or more, got 0"),
        (CLASSES, {"top_k": True}, "1 or more, got True"),
        (BOXES, {"max_detections": 2.0}, "must be a number of objects, 1 or more, got 2.0"),
        (BOXES, {"confidence": 1.5}, "confidence must be a number from 0 to 1, got 1.5"),
        (BOXES, {"overlap": "x"}, "overlap must be a number from 0 to 1, got 'x'"),
        (BOXES, {"overlap": float("nan")}, "from 0 to 1, got nan"),
    ],
)
def test_wrong_options_are_named(task: Task, given: dict, message: str) -> None:
    with pytest.raises(UsageError) as error:
        prediction_options(task, given)
    assert message in str(error.value)
