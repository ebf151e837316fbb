"""Target maps."""

import numpy as np
import pytest
from detection_samples import one, samples

from cnnforge.tasks.detection.objects import objects_of
from cnnforge.tasks.detection.targets import MIDDLE, Level, levels_of, target_maps

SIZE = (32, 48)
LEVEL = Level(4, 8, 12)


def made(given, levels=(LEVEL,), classes=3, size=SIZE):
    return target_maps(objects_of(given, np.arange(len(given)), size), levels, classes)


def oracle(boxes, labels, crowd, level, classes):
    """The map of one image, cell by cell."""
    result = np.zeros((level.height, level.width, classes + 5))
    heat = np.zeros((level.height, level.width, classes))
    middle = np.zeros(heat.shape, bool)
    order = np.argsort(-np.float32(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)), kind="stable")
    for number in order:
        if crowd[number]:
            continue
        box, label = boxes[number] / level.stride, labels[number]
        x, y = (int((box[axis] + box[axis + 2]) / 2) for axis in (0, 1))
        x, y = min(x, level.width - 1), min(y, level.height - 1)
        sigma = 0.09 * (box[2:] - box[:2]) + 0.25
        own = np.zeros((level.height, level.width))
        for row in range(level.height):
            for column in range(level.width):
                value = np.exp(
                    -((column - x) ** 2) / (2 * sigma[0] ** 2)
                    - (row - y) ** 2 / (2 * sigma[1] ** 2)
                )
                own[row, column] = value if value >= 0.05 else 0
        middle[y, x, label] = True
        heat[..., label] = np.maximum(heat[..., label], own)
        area = np.prod(boxes[number, 2:] - boxes[number, :2])
        for row, column in zip(*own.nonzero(), strict=True):
            result[row, column, classes : classes + 4] = box
            result[row, column, -1] = np.log1p(area) / 7 * own[row, column] / own.sum()
    result[..., :classes] = np.where(middle, MIDDLE, (1 - heat) ** 4)
    for number in np.flatnonzero(crowd):
        x1, y1, x2, y2 = boxes[number] / level.stride
        for row in range(int(np.floor(y1)), int(np.ceil(y2))):
            for column in range(int(np.floor(x1)), int(np.ceil(x2))):
                place = row, column, labels[number]
                result[place] = min(result[place], 1e-12)
    return result


def test_maps_are_those_of_the_definition() -> None:
    given = samples(40, most=7)
    found = made(given)["stride_4"]
    assert found.shape == (40, 8, 12, 8)
    assert found.dtype == np.float32
    for row in range(40):
        expected = oracle(given.boxes[row], given.labels[row], given.crowd[row], LEVEL, 3)
        np.testing.assert_allclose(found[row], expected, rtol=2e-5, atol=1e-6)


def test_each_image_has_the_same_map_in_every_batch() -> None:
    given = samples(20)
    whole = made(given)["stride_4"]
    for part in ([3], [7, 3, 0], list(range(5, 20))):
        objects = objects_of(given, np.array(part), SIZE)
        found = target_maps(objects, (LEVEL,), 3)["stride_4"]
        assert found.tobytes() == whole[part].tobytes()


def test_an_image_without_objects_is_background() -> None:
    found = made(one())["stride_4"][0]
    assert (found[..., :3] == 1).all()
    assert not found[..., 3:].any()


def test_the_middle_is_exact_even_at_the_edge_of_the_image() -> None:
    found = made(one((46, 30, 48, 32), (0, 0, 1, 1), (8, 8, 8.5, 8.25)))["stride_4"][0]
    assert sorted(zip(*np.nonzero(found[..., 0] == MIDDLE), strict=True)) == [
        (0, 0),
        (2, 2),
        (7, 11),
    ]
    for cell in ((0, 0), (2, 2), (7, 11)):
        assert found[cell][-1] > 0


def test_the_smaller_of_two_boxes_counts() -> None:
    for boxes in (((0, 0, 40, 30), (16, 12, 24, 20)), ((16, 12, 24, 20), (0, 0, 40, 30))):
        found = made(one(*boxes, labels=[0, 1] if boxes[0][0] == 0 else [1, 0]))["stride_4"][0]
        np.testing.assert_array_equal(found[4, 5, 3:7], [4, 3, 6, 5])


def test_weights_add_up_to_the_logarithm_of_the_area() -> None:
    found = made(one((8, 8, 28, 24)))["stride_4"][0]
    assert found[..., -1].sum() == pytest.approx(np.log1p(20 * 16) / 7, rel=1e-5)


def test_an_object_belongs_to_the_level_of_its_size() -> None:
    levels = (Level(4, 32, 32), Level(8, 16, 16), Level(16, 8, 8))
    boxes = ((0, 0, 32, 8), (0, 0, 33, 8), (60, 60, 124, 70), (0, 60, 65, 70), (0, 0, 128, 128))
    for box, expected in zip(boxes, (0, 1, 1, 2, 2), strict=True):
        maps = made(one(box, size=(128, 128)), levels, size=(128, 128))
        drawn = [(maps[level.name][..., :3] == MIDDLE).sum() for level in levels]
        assert drawn == [int(number == expected) for number in range(3)]
    assert [level.name for level in levels] == ["stride_4", "stride_8", "stride_16"]


@pytest.mark.parametrize(
    ("shapes", "size", "expected"),
    [
        ([(None, 8, 12, 7)], (32, 48), [(4, 8, 12)]),
        ([(None, 9, 13, 7)], (33, 49), [(4, 9, 13)]),
        ([(None, 8, 12, 7), (None, 4, 6, 7)], (32, 48), [(4, 8, 12), (8, 4, 6)]),
        ([(2, 1, 1, 7)], (5, 5), [(8, 1, 1)]),
    ],
)
def test_strides_follow_from_shapes(shapes, size, expected) -> None:
    assert list(map(tuple, levels_of(shapes, size))) == expected


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(None, 5)], r"expected maps \(None, h, w, C \+ 4\)"),
        ([(None, 7, 12, 7)], "a map of 7 x 12 cells for images of 32 x 48 pixels"),
        ([(None, 4, 6, 7), (None, 8, 12, 7)], r"the strides \[8, 4\]: expected increasing"),
        ([(None, 8, 12, 7)] * 2, r"the strides \[4, 4\]: expected increasing"),
        ([], "expected increasing strides"),
    ],
)
def test_other_shapes_are_refused(shapes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        levels_of(shapes, (32, 48))
