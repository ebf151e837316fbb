"""From maps to boxes."""

import numpy as np
import pytest

from cnnforge.tasks.detection.decoding import Found, decode

SIZE = (32, 48)
OPTIONS = {"confidence": 0.1, "overlap": 0.5, "max_detections": 100}


def maps(seed: int, images: int = 6, classes: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    found = []
    for height, width in ((8, 12), (4, 6)):
        made = random.normal(0, 1, (images, height, width, classes + 4)).astype(np.float32)
        # Steps of 0.5 give ties.
        made[..., :classes] = np.round(2 * made[..., :classes]) - 2
        made[..., classes:] += 0.5
        found.append(made)
    return found


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    common = np.prod((np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    return common / union if union > 0 else 0.0


def oracle(outputs: list[np.ndarray], confidence: float, limit: float, most: int) -> list[tuple]:
    """The objects of one image: cell by cell, box by box."""
    candidates = []
    for output, stride in zip(outputs, (4, 8), strict=True):
        channels = output.shape[2]
        logits = output[..., : channels - 4]
        for row, column, label in np.ndindex(logits.shape):
            score = np.float32(1 / (1 + np.exp(-logits[row, column, label])))
            around = logits[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2, label]
            if score < confidence or logits[row, column, label] < around.max():
                continue
            sides = np.exp(output[row, column, channels - 4 :].clip(-6, 6))
            x, y = column + 0.5, row + 0.5
            box = np.array([x - sides[0], y - sides[1], x + sides[2], y + sides[3]]) * stride
            candidates.append((score, label, box.clip(0, [48, 32, 48, 32])))
    candidates.sort(key=lambda each: -each[0])
    kept = []
    for each in candidates[:100]:
        if all(each[1] != k[1] or overlap(each[2], k[2]) < limit for k in kept):
            kept.append(each)
    return kept[:most]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("confidence", "limit", "most"), [(0.1, 0.5, 100), (0.02, 0.3, 4)])
def test_objects_are_those_of_the_definition(
    seed: int, confidence: float, limit: float, most: int
) -> None:
    outputs = maps(seed)
    found = decode(outputs, SIZE, confidence=confidence, overlap=limit, max_detections=most)
    for row, each in enumerate(found):
        expected = oracle([output[row] for output in outputs], confidence, limit, most)
        assert each.labels.tolist() == [label for _, label, _ in expected]
        np.testing.assert_allclose(each.scores, [score for score, _, _ in expected], rtol=1e-6)
        boxes = np.array([box for _, _, box in expected]).reshape(-1, 4)
        np.testing.assert_allclose(each.boxes, boxes, rtol=1e-5, atol=1e-4)


def test_an_image_gives_the_same_in_every_batch() -> None:
    outputs = maps(3, images=20)
    whole = decode(outputs, SIZE, **OPTIONS)
    for part in ([3], [7, 3, 0], list(range(5, 20))):
        again = decode([output[part] for output in outputs], SIZE, **OPTIONS)
        for index, each in zip(part, again, strict=True):
            assert [x.tobytes() for x in each] == [x.tobytes() for x in whole[index]]


@pytest.mark.parametrize("confidence", [0.1, 0.2, 0.5, 0.9])
def test_a_higher_confidence_leaves_out_the_lower_ones(confidence: float) -> None:
    outputs = maps(4, images=12)
    for low, high in zip(
        decode(outputs, SIZE, **{**OPTIONS, "confidence": 0.01}),
        decode(outputs, SIZE, **{**OPTIONS, "confidence": confidence}),
        strict=True,
    ):
        for a, b in zip(low.at_least(confidence), high, strict=True):
            np.testing.assert_array_equal(a, b)


def one(*objects: tuple[int, int, int, float], sides: float = 1.0) -> list[np.ndarray]:
    """A map with peaks: row, column, class and logit."""
    output = np.full((1, 8, 12, 7), -9, np.float32)
    output[..., 3:] = np.log(sides)
    for row, column, label, logit in objects:
        output[0, row, column, label] = logit
    return [output]


def test_suppression_is_per_class_and_not_by_what_is_suppressed() -> None:
    # In a row: each overlaps the next by 1/3 of the union, at distance 2 of 4 cells.
    outputs = one((4, 3, 0, 3.0), (4, 5, 0, 2.0), (4, 7, 0, 1.0), sides=2.0)
    (found,) = decode(outputs, SIZE, confidence=0.5, overlap=0.33, max_detections=100)
    np.testing.assert_allclose(found.boxes[:, 0], [6, 22])
    outputs = one((4, 3, 0, 3.0), (4, 5, 1, 2.0), (4, 7, 0, 1.0), sides=2.0)
    (found,) = decode(outputs, SIZE, confidence=0.5, overlap=0.33, max_detections=100)
    assert found.labels.tolist() == [0, 1, 0]
    (found,) = decode(outputs, SIZE, confidence=0.5, overlap=0.33, max_detections=2)
    assert found.labels.tolist() == [0, 1]


def test_nothing_is_found_in_empty_maps_and_in_no_images() -> None:
    (found,) = decode(one(), SIZE, **OPTIONS)
    assert found.boxes.shape == (0, 4)
    assert found.labels.dtype == np.int32
    assert decode([np.empty((0, 8, 12, 7), np.float32)], SIZE, **OPTIONS) == []


@pytest.mark.parametrize("value", [np.nan, -np.inf, -1e30])
def test_values_that_are_no_peaks_are_left_out(value: float) -> None:
    outputs = one((2, 2, 1, 2.0))
    outputs[0][0, 5] = value
    (found,) = decode(outputs, SIZE, **OPTIONS)
    assert found.labels.tolist() == [1]


@pytest.mark.parametrize("value", [1e30, np.inf])
def test_extreme_peaks_give_finite_boxes(value: float) -> None:
    outputs = one((2, 2, 1, value))
    outputs[0][0, 2, 2, 3:] = value
    (found,) = decode(outputs, SIZE, **OPTIONS)
    assert found.scores.tolist() == [1.0]
    assert found.boxes.tolist() == [[0, 0, 48, 32]]


def test_the_confidence_is_compared_exactly() -> None:
    outputs = one((2, 2, 1, 0.0), (5, 5, 1, -5e-4))
    (found,) = decode(outputs, SIZE, **{**OPTIONS, "confidence": 0.5})
    assert found.scores.tolist() == [0.5]


@pytest.mark.parametrize("confidence", [0, 1])
def test_the_ends_of_the_confidence(confidence: float) -> None:
    (found,) = decode(one((2, 2, 1, 2.0)), SIZE, **{**OPTIONS, "confidence": confidence})
    assert len(found.labels) == (0 if confidence else 100)
    assert isinstance(found, Found)
