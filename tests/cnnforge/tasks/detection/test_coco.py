"""The numbers of COCO are those of pycocotools, bit for bit."""

import contextlib
import io

import numpy as np
import pytest
from detection_samples import judged
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnnforge.tasks.detection.coco import ERRORS, CocoNumbers, Truth
from cnnforge.tasks.detection.decoding import Found


def reference(truth, found, sizes, classes):
    """The evaluation of pycocotools."""
    annotations = []
    for image, each in enumerate(truth, 1):
        for (x1, y1, x2, y2), label, crowd in zip(*each, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                }
            )
    results = [
        {
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": [float(x1), float(y1), float(x2) - float(x1), float(y2) - float(y1)],
            "score": float(score),
        }
        for image, each in enumerate(found, 1)
        for (x1, y1, x2, y2), label, score in zip(*each, strict=True)
    ]
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": number, "height": int(size[0]), "width": int(size[1])}
            for number, size in enumerate(sizes, 1)
        ],
        "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


@pytest.mark.parametrize("images", [1, 8, 30])
@pytest.mark.parametrize("seed", range(20))
def test_the_twelve_numbers_are_those_of_pycocotools(
    seed: int, images: int, capfd: pytest.CaptureFixture[str]
) -> None:
    case = judged(seed, images)
    if not any(len(each.labels) for each in case[1]):
        pytest.skip("pycocotools refuses an empty list of detections")
    numbers = CocoNumbers(*case)
    assert capfd.readouterr() == ("", "")
    judge = reference(*case)
    assert numbers.stats.tobytes() == np.asarray(judge.stats).tobytes()
    precision, scores = judge.eval["precision"], judge.eval["scores"]
    for label in range(case[3]):
        curve = numbers.curve(label)
        if curve is None:
            assert (precision[0, :, label, 0, 2] == -1).all()
            continue
        np.testing.assert_array_equal(curve[0], precision[0, :, label, 0, 2])
        np.testing.assert_array_equal(curve[1], scores[0, :, label, 0, 2])
        assert numbers.of_class(label)[0] == np.mean(precision[:, :, label, 0, 2])


@pytest.mark.parametrize("seed", range(10))
def test_matches_are_those_of_pycocotools(seed: int) -> None:
    case = judged(seed)
    judge, matches = reference(*case), CocoNumbers(*case).matches
    objects, pairs = np.zeros(case[3], int), []
    for each in judge.evalImgs:
        if each is not None and each["aRng"] == [0, 1e10]:
            label = each["category_id"] - 1
            objects[label] += int((np.array(each["gtIgnore"]) == 0).sum())
            for score, match, ignored in zip(
                each["dtScores"], each["dtMatches"][0], each["dtIgnore"][0], strict=True
            ):
                if not ignored:
                    pairs.append((label, score, match > 0))
    assert matches.objects.tolist() == objects.tolist()
    found = zip(
        matches.labels.tolist(), matches.scores.tolist(), matches.right.tolist(), strict=True
    )
    assert sorted(found) == sorted(pairs)


def box(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


def test_nothing_found_is_zero_and_not_an_error() -> None:
    truth = [Truth(box((0, 0, 9, 9)), np.array([1], np.int32), np.array([False]))]
    nothing = [Found(box(), np.zeros(0, np.int32), np.zeros(0, np.float32))]
    numbers = CocoNumbers(truth, nothing, np.array([[20, 20]]), 3)
    assert numbers.stats[:4].tolist() == [0, 0, 0, 0]
    assert numbers.stats[4] == -1
    assert numbers.curve(0) is None
    assert np.isnan(numbers.of_class(0)).all()
    assert numbers.of_class(1) == (0, 0, 0)
    assert numbers.matches.objects.tolist() == [0, 1, 0]
    assert numbers.confusion(0.5).tolist() == [[0] * 4, [0, 0, 0, 1], [0] * 4, [0] * 4]
    assert numbers.errors["Miss"][0] == 1
    assert set(numbers.errors) == set(ERRORS)


def test_kinds_of_errors_and_confusions() -> None:
    truth = [
        Truth(
            box((0, 0, 20, 20), (50, 0, 70, 20), (0, 50, 20, 70), (50, 50, 70, 70)),
            np.array([0, 0, 1, 1], np.int32),
            np.zeros(4, bool),
        )
    ]
    found = [
        Found(
            # Right; found twice; wrong class; wrong place; background.
            box((0, 0, 20, 20), (1, 0, 21, 20), (0, 50, 20, 70), (57, 0, 84, 20), (80, 80, 95, 95)),
            np.array([0, 0, 0, 0, 1], np.int32),
            np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32),
        )
    ]
    numbers = CocoNumbers(truth, found, np.array([[100, 100]]), 2)
    counts = {kind: count for kind, (count, _) in numbers.errors.items()}
    assert counts == {"Cls": 1, "Loc": 1, "Both": 0, "Dupe": 1, "Bkg": 1, "Miss": 1}
    assert numbers.confusion(0.55).tolist() == [[1, 0, 1], [1, 0, 1], [2, 0, 0]]
    assert numbers.confusion(0.85).tolist() == [[1, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_detections_in_a_crowd_are_neither_right_nor_wrong() -> None:
    truth = [
        Truth(
            box((0, 0, 60, 60), (70, 70, 90, 90)),
            np.zeros(2, np.int32),
            np.array([True, False]),
        )
    ]
    found = [
        Found(
            box((10, 10, 20, 20), (70, 70, 90, 90), (30, 30, 40, 40)),
            np.zeros(3, np.int32),
            np.array([0.9, 0.8, 0.7], np.float32),
        )
    ]
    numbers = CocoNumbers(truth, found, np.array([[100, 100]]), 1)
    assert numbers.stats[0] == pytest.approx(1)
    assert numbers.matches.scores.tolist() == pytest.approx([0.8])
    assert numbers.matches.objects.tolist() == [1]
