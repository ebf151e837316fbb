"""Annotated photographs of other packages: `make test-annotated` downloads them and runs this."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from boxes import labelme_examples, nuclei

from cnnforge.cli import main
from cnnforge.data import DataOptions
from cnnforge_plugins.detection_data import coco, voc, yolo

pytestmark = pytest.mark.slow
READERS = {"coco": coco, "yolo": yolo, "voc": voc}


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    return labelme_examples(tmp_path_factory.mktemp("labelme"))


def objects(kind, path):
    """Return the boxes and class names of each picture, by its name."""
    dataset = READERS[kind].load(str(path), DataOptions(purpose="inspection"))
    assert dataset.inspection.objects == []
    assert dataset.skipped == ()
    return {
        re.sub(r"\.\w+$", "", name.rpartition("/")[2]): [
            (dataset.classes[label], *box)
            for label, box in zip(labels.tolist(), boxes.tolist(), strict=True)
        ]
        for name, boxes, labels in zip(
            dataset.train.names, dataset.train.boxes, dataset.train.labels, strict=True
        )
    }


def test_voc_equals_the_boxes_of_labelme(examples):
    found = objects("voc", examples / "bbox_detection" / "data_dataset_voc")
    expected = {}
    for path in sorted((examples / "bbox_detection" / "data_annotated").glob("*.json")):
        shapes = json.loads(path.read_text())["shapes"]
        expected[path.stem] = [
            (shape["label"], *np.min(shape["points"], axis=0), *np.max(shape["points"], axis=0))
            for shape in shapes
        ]
    assert sum(map(len, expected.values())) == 9
    assert found == expected


def test_coco_equals_its_own_numbers(examples):
    folder = examples / "instance_segmentation" / "data_dataset_coco"
    document = json.loads((folder / "annotations.json").read_text())
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    stems = {entry["id"]: Path(entry["file_name"]).stem for entry in document["images"]}
    expected = {stem: [] for stem in stems.values()}
    for entry in document["annotations"]:
        x, y, width, height = entry["bbox"]
        box = (names[entry["category_id"]], x, y, x + width, y + height)
        expected[stems[entry["image_id"]]].append(box)
    assert objects("coco", folder / "annotations.json") == expected


@pytest.mark.parametrize("source", ["voc", "coco"])
def test_written_and_read_again(examples, tmp_path, source):
    data = {
        "voc": examples / "bbox_detection" / "data_dataset_voc",
        "coco": examples / "instance_segmentation" / "data_dataset_coco" / "annotations.json",
    }[source]
    expected = objects(source, data)
    for first in READERS:
        assert main(["data", "convert", str(data), f"{first}:{tmp_path / first}"]) == 0
        # YOLO has nine digits of a fraction: less than a millionth of a pixel.
        tolerance = 1e-6 if first == "yolo" else 0
        check_equal(objects(first, tmp_path / first), expected, tolerance)
        for second in READERS:
            place = tmp_path / f"{first}-{second}"
            assert (
                main(["data", "convert", f"{first}:{tmp_path / first}", f"{second}:{place}"]) == 0
            )
            tolerance = 2e-6 if "yolo" in (first, second) else 0
            check_equal(objects(second, place), expected, tolerance)


def check_equal(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, boxes in expected.items():
        assert [own[0] for own in found[name]] == [own[0] for own in boxes]
        own, other = (np.array([box[1:] for box in each]) for each in (found[name], boxes))
        assert abs(own - other).max() <= tolerance
        whole = other == np.round(other)
        assert (own[whole] == other[whole]).all()


def test_pictures_are_copied_unchanged(examples, tmp_path):
    data = examples / "bbox_detection" / "data_dataset_voc"
    assert main(["data", "convert", str(data), f"yolo:{tmp_path / 'yolo'}"]) == 0
    for path in (data / "JPEGImages").iterdir():
        assert (tmp_path / "yolo" / "images" / path.name).read_bytes() == path.read_bytes()


def test_nuclei():
    image, boxes = nuclei()
    assert (image.shape, image.dtype, len(boxes)) == ((512, 512), np.uint8, 125)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert np.median(sides, axis=0).tolist() == [25, 24]
    assert boxes.min() == 0
    assert boxes.max() == 512
