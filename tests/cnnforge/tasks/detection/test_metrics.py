"""The evaluation of a detector."""

import json

import keras
import numpy as np
import pytest
from detection_samples import Samples, judged, samples

from cnnforge.data import Dataset, letterbox
from cnnforge.errors import UsageError
from cnnforge.tasks.detection import Detection
from cnnforge.tasks.detection.coco import CocoNumbers, Matches
from cnnforge.tasks.detection.decoding import Found
from cnnforge.tasks.detection.metrics import (
    CONFIDENCE,
    DetectionEvaluation,
    best_confidence,
    quality,
    to_original,
)
from cnnforge.tasks.detection.targets import Level

SIZE = (32, 48)
CLASSES = ("a", "b", "c")
SHAPES = [(8, 12), (4, 6)]


def outputs(images: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    made = [random.normal(0, 1, (images, *shape, 7)).astype(np.float32) for shape in SHAPES]
    for each in made:
        each[..., :3] -= 2
    return made


def task(classes: tuple[str, ...] = CLASSES) -> Detection:
    made = Detection(classes, SIZE)
    made._levels = (Level(4, 8, 12), Level(8, 4, 6))
    return made


def evaluated(
    given: Samples, maps: list[np.ndarray], batch: int = 99, names: tuple[str, ...] = CLASSES
) -> DetectionEvaluation:
    dataset = Dataset("boxes", names, given, given, "", task="detection")
    evaluator = task().evaluator(dataset, given, np.arange(len(given)))
    for first in range(0, len(given), batch):
        evaluator.add([each[first : first + batch] for each in maps])
    return evaluator.result()


def test_the_result_does_not_depend_on_the_batches() -> None:
    given, maps = samples(25), outputs(25)
    found = [evaluated(given, maps, batch) for batch in (99, 1, 7)]
    texts = [json.dumps(each.as_dict()) for each in found]
    assert texts[0] == texts[1] == texts[2]
    assert found[0].samples == 25


def test_the_loss_is_that_of_training() -> None:
    given, maps = samples(12, seed=1), outputs(12)
    found = evaluated(given, maps).metrics
    own = task()
    _, targets = own.read(given, np.arange(12))
    losses = keras.ops.convert_to_numpy(own.losses(targets, maps))
    sums = {name: float(value) for name, value in own.sums(targets, maps).items()}
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert found["heat_loss"] == pytest.approx(sums["heat_loss"] / 12, rel=1e-5)
    assert found["box_loss"] == pytest.approx(sums["box_loss"] / 12, rel=1e-5)
    assert found["loss"] == pytest.approx(found["heat_loss"] + found["box_loss"])


def perfect(given: Samples, image_size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Maps of stride 4 in which the middle of each object has its box."""
    maps = np.full((len(given), 8, 12, 7), -9, np.float32)
    for row in range(len(given)):
        size = given.sizes[row]
        boxes = letterbox((size[0], size[1]), image_size).to_model(given.boxes[row]) / 4
        for box, label in zip(boxes, given.labels[row], strict=True):
            x, y = ((box[:2] + box[2:]) / 2).astype(int)
            maps[row, y, x, label] = 5
            maps[row, y, x, 3:] = np.log([x + 0.5 - box[0], y + 0.5 - box[1],
                                          box[2] - x - 0.5, box[3] - y - 0.5])  # fmt: skip
    return [maps]


def test_boxes_are_compared_in_the_original_images() -> None:
    """The pictures have other sizes than the model's images."""
    sizes = np.array([[100, 300], [400, 200], [32, 48]])
    boxes = [np.array([[30.0, 20, 150, 90]]), np.array([[40.0, 60, 140, 300]]),
             np.array([[4.0, 4, 30, 20]])]  # fmt: skip
    labels = [np.array([each], np.int32) for each in (0, 1, 2)]
    given = Samples(boxes, labels, [np.zeros(1, bool)] * 3, sizes)
    found = evaluated(given, perfect(given))
    assert found.metrics["map"] == pytest.approx(1)
    for each, box in zip(found.found, boxes, strict=True):
        np.testing.assert_allclose(each.boxes, box, rtol=1e-5)
    # In pixels of the originals: 8,400, 24,000 and 416.
    assert {name: each["objects"] for name, each in found.by_size.items()} == {
        "small": 1,
        "medium": 1,
        "large": 1,
    }
    assert found.by_size["large"]["map"] == pytest.approx(1)


def test_detections_in_the_border_are_left_out() -> None:
    boxes = np.float32([[0, 0, 48, 3], [10, 2, 20, 20]])
    found = Found(boxes, np.zeros(2, np.int32), np.float32([0.9, 0.8]))
    # 200 x 100 becomes 48 x 24, with four rows above and below.
    inside = to_original(found, (100, 200), SIZE)
    assert len(inside.boxes) == len(inside.labels) == 1
    np.testing.assert_allclose(inside.boxes, [[10 / 0.24, 0, 20 / 0.24, 16 / 0.24]], rtol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_confidence_is_found_among_all(seed: int) -> None:
    matches = CocoNumbers(*judged(seed)).matches
    best = best_confidence(matches)
    every = [quality(matches, value).f1 for value in np.linspace(0, 1, 1001)]
    assert quality(matches, best).f1 == pytest.approx(max(every))


def test_quality_is_that_of_counted_objects() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.9, 0.5, 0.8, 0.3])
    matches = Matches(labels, scores, np.array([True, False, True, True]), np.array([2, 3, 0]))
    assert quality(matches, 0.4) == pytest.approx((2 / 3, 2 / 5, 2 * 2 / (3 + 5)))
    assert quality(matches, 0.4, 1) == pytest.approx((1, 1 / 3, 0.5))
    assert quality(matches, 0.4, 2) == (0, 0, 0)
    assert quality(matches, 0.95) == (0, 0, 0)
    # F1 is 2/6, 4/7, 4/8 and 6/9 at the four scores.
    assert best_confidence(matches) == pytest.approx((0.3 + 0.01) / 2)
    nothing = Matches(labels[:0], scores[:0], np.zeros(0, bool), np.array([2, 3, 0]))
    assert best_confidence(nothing) == CONFIDENCE
    wrong = matches._replace(right=np.zeros(4, bool))
    assert best_confidence(wrong) == CONFIDENCE


def test_a_chosen_confidence_is_used() -> None:
    given, maps = samples(10), outputs(10)
    own = task()
    own.confidence = 0.4
    dataset = Dataset("boxes", CLASSES, given, given, "", task="detection")
    evaluator = own.evaluator(dataset, given, np.arange(10))
    evaluator.add(maps)
    found = evaluator.result()
    assert found.threshold == 0.4
    assert own.calibrate(found)
    assert own.confidence == 0.4
    other = evaluated(given, maps)
    own = task()
    own.calibrate(other)
    assert own.confidence == other.threshold == best_confidence(other.numbers.matches)


def test_the_dictionary_is_plain_and_complete() -> None:
    found = json.loads(json.dumps(evaluated(samples(25), outputs(25)).as_dict(), allow_nan=False))
    assert len(found["coco"]) == 12
    assert found["coco"]["map50"] == found["map50"]
    assert set(found["classes"]) == set(CLASSES)
    assert set(found["classes"]["a"]) == {
        *("objects", "map", "map50", "ar100", "precision", "recall", "f1"),
    }
    assert len(found["confusion_matrix"]) == 4
    assert set(found["errors"]) == {
        "wrong class",
        "wrong place",
        "wrong class and place",
        "found twice",
        "background",
        "missed",
    }


def test_errors_are_counted_at_the_threshold() -> None:
    found = evaluated(samples(25), outputs(25))
    counts = {name: count for name, (count, _) in found.errors.items()}
    every = {name: count for name, (count, _) in found.numbers.errors.items()}
    assert sum(counts.values()) < sum(every.values())
    shown = sum(len(each.at_least(found.threshold).labels) for each in found.found)
    assert sum(counts[name] for name in counts if name != "missed") <= shown
    # What they cost is that of all detections, as the mAP is.
    assert found.errors["missed"][1] == found.numbers.errors["Miss"][1]


def test_classes_are_matched_by_name() -> None:
    given, maps = samples(20), outputs(20)
    expected = evaluated(given, maps)
    # The same objects; the dataset has the classes in another order, and one without objects.
    order = ("c", "new", "a", "b")
    other = Samples(
        given.boxes,
        [
            np.array([order.index(CLASSES[label]) for label in each], np.int32)
            for each in given.labels
        ],
        given.crowd,
        given.sizes,
    )
    found = evaluated(other, maps, names=order)
    assert json.dumps(found.as_dict()) == json.dumps(expected.as_dict())
    row = next(row for row, each in enumerate(other.labels) if len(each))
    other.labels[row] = np.ones(len(other.labels[row]), np.int32)
    with pytest.raises(UsageError, match="boxes has objects of the class 'new', which the model"):
        evaluated(other, maps, names=order)


def test_data_without_objects_cannot_be_measured() -> None:
    given = samples(5, most=0)
    with pytest.raises(UsageError, match="no image of boxes has an object, so nothing can be"):
        evaluated(given, outputs(5))


def test_the_number_of_outputs_is_checked() -> None:
    given = samples(10)
    dataset = Dataset("boxes", CLASSES, given, given, "", task="detection")
    evaluator = task().evaluator(dataset, given, np.arange(10))
    evaluator.add([each[:4] for each in outputs(10)])
    with pytest.raises(ValueError, match="expected maps of 10 images, got those of 4"):
        evaluator.result()
    with pytest.raises(ValueError, match="expected maps of 10 images, got more"):
        evaluator.add(outputs(10))
