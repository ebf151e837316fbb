"""Annotations in the form of COCO, as people bring them."""

import json

import numpy as np
import pytest
from boxes import coco, write_json, write_pictures
from PIL import Image

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.detection_data.coco import load

GOOD = (4, 5, 10, 15)


def opened(path, purpose="evaluation"):
    return load(str(path), DataOptions(purpose=purpose))


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path / "images", 4)
    return tmp_path


def written(folder, document, name="boxes.json"):
    return write_json(folder / name, document)


def test_boxes_are_left_top_width_and_height(folder):
    document = coco([(0, 0, GOOD), (2, 1, (1.5, 2.25, 3, 4)), (2, 0, (0, 0, 40, 30))], count=3)
    dataset = opened(written(folder, document))
    assert dataset.name == f"coco:{folder / 'boxes.json'}"
    assert dataset.classes == ("cat", "dog")
    assert [each.tolist() for each in dataset.train.boxes] == [
        [[4, 5, 14, 20]],
        [],
        [[1.5, 2.25, 4.5, 6.25], [0, 0, 40, 30]],
    ]
    assert dataset.train.labels[2].tolist() == [1, 0]
    assert (dataset.id_name, dataset.train.ids) == ("image_id", ["0", "1", "2"])
    assert dataset.notes == ("1 picture has no object: background, which counts",)


def test_ids_with_gaps_in_any_order(folder):
    document = coco([(0, 0, GOOD), (1, 1, GOOD)])
    document["categories"] = [
        {"id": 90, "name": "zebra"},
        {"id": 0, "name": "ant"},
        {"id": 7, "name": "bee"},
    ]
    document["images"] = [
        {"id": 555, "file_name": "1.png"},
        {"id": "a7", "file_name": "0.png"},
    ]
    document["annotations"] = [
        {"id": 0, "image_id": "a7", "category_id": 90, "bbox": [1, 2, 3, 4]},
        {"id": 10**12, "image_id": 555.0, "category_id": "7", "bbox": [5, 6, 7, 8]},
        {"image_id": 555, "category_id": 0, "bbox": ["5", 6, 7, 8]},
    ]
    dataset = opened(written(folder, document))
    assert dataset.classes == ("ant", "bee", "zebra")
    assert dataset.train.ids == ["555", "a7"]
    assert [each.tolist() for each in dataset.train.labels] == [[1, 0], [2]]
    assert dataset.train.boxes[1].tolist() == [[1, 2, 4, 6]]
    assert dataset.notes == ()


def test_crowds_and_polygons(folder):
    document = coco([(0, 0, GOOD), (0, 1, GOOD)])
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][0]["segmentation"] = {"counts": "x", "size": [30, 40]}
    document["annotations"][1]["segmentation"] = [[0, 0, 40, 0, 40, 30]]
    dataset = opened(written(folder, document))
    assert dataset.train.crowd[0].tolist() == [True, False]
    assert dataset.train.boxes[0].tolist() == [[4, 5, 14, 20]] * 2


def test_double_ids(folder):
    document = coco([(0, 0, GOOD), (0, 0, GOOD), (1, 1, GOOD)])
    for entry in document["annotations"]:
        entry["id"] = 7
    document["images"].append(document["images"][0])
    document["categories"].append({"id": 0, "name": "cat"})
    dataset = opened(written(folder, document))
    assert [len(each) for each in dataset.train.boxes] == [1, 1]
    path = folder / "boxes.json"
    assert dataset.notes == (
        f"1 image id is twice in {path}, with the same picture; the first is 0",
        f"2 annotation ids are twice in {path}, the first is 7: 1 with the same box, which counts "
        "once, and 1 with another one, which counts too",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": [{"id": 0, "file_name": "0.png"}, {"id": 0, "file_name": "1.png"}]},
            r"the image id 0 is both 0.png and 1.png, so its annotations have no clear picture",
        ),
        (
            {"categories": [{"id": 0, "name": "cat"}, {"id": 0, "name": "dog"}]},
            "the category id 0 is both 'cat' and 'dog': give each category an id of its own",
        ),
        ({"categories": [{"id": 1}]}, "category number 1 has no name"),
        ({"categories": [{"name": "cat"}]}, "category number 1 has no id"),
        ({"categories": []}, "has no category"),
        ({"categories": 3}, "has no list called categories"),
        ({"images": [{"id": 3}]}, "image number 1 has no file_name"),
        ({"images": [{"file_name": "0.png"}]}, "image number 1 has no id"),
        ({"images": None}, "has no list called images: expected the JSON form of COCO"),
        ({"images": []}, "has no image"),
    ],
)
def test_documents_that_contradict_themselves(folder, change, message):
    with pytest.raises(DataError, match=message):
        opened(written(folder, {**coco([(0, 0, GOOD)]), **change}))


def test_bad_annotations_are_listed_and_the_others_stay(folder):
    document = coco(
        [
            (0, 0, GOOD),
            (0, 0, (5, 5, 0, 9)),
            (0, 0, (5, 5, 3, -9)),
            (0, 0, (50, 5, 3, 9)),
            (0, 0, (38, 5, 9, 9)),
            (1, 0, (float("nan"), 5, 3, 9)),
            (1, 0, (5, 5, 3)),
            (1, 9, GOOD),
            (9, 0, GOOD),
        ],
        count=3,
    )
    document["annotations"].append({"image_id": 1, "category_id": 0, "bbox": None})
    document["annotations"].append({"image_id": 1, "category_id": 0, "bbox": [1, 2, "x", 4]})
    dataset = opened(written(folder, document), "inspection")
    assert [len(each) for each in dataset.train.boxes] == [2, 0, 0]
    findings = [each.text for each in dataset.inspection.objects]
    assert findings == [
        "boxes.json, annotation 7: the annotation has no bbox of four numbers",
        "boxes.json, annotation 8: the annotation has a category that the file does not have "
        "(id 9)",
        "boxes.json, annotation 9: the annotation is about an image that the file does not have "
        "(id 9)",
        "boxes.json, annotation number 10: the annotation has no bbox of four numbers",
        "boxes.json, annotation 2: the box has no area (5 5 5 14 in a picture of 40x30 pixels)",
        "boxes.json, annotation 3: the box has a negative width or height (5 5 8 -4 in a picture "
        "of 40x30 pixels)",
        "boxes.json, annotation 4: the box is outside of the picture (50 5 53 14 in a picture of "
        "40x30 pixels)",
        "boxes.json, annotation 5: the box leaves the picture, and is clipped (38 5 47 14 in a "
        "picture of 40x30 pixels)",
        "boxes.json, annotation 6: the box has a number that is not finite (nan 5 nan 14 in a "
        "picture of 40x30 pixels)",
        "boxes.json, annotation number 11: the box has a number that is not finite (1 2 nan 6 in "
        "a picture of 40x30 pixels)",
    ]


def test_normalised_boxes_are_said(folder):
    document = coco([(0, 0, (0.1, 0.2, 0.5, 0.5)), (1, 0, (0, 0, 1, 1))])
    dataset = opened(written(folder, document))
    assert dataset.train.boxes[0].tolist() == [[4, 6, 24, 21]]
    assert "are between 0 and 1, and COCO has pixels" in dataset.notes[0]


def test_a_picture_that_is_missing_or_twice(folder):
    document = coco([(0, 0, GOOD), (1, 0, GOOD), (2, 0, GOOD), (2, 1, GOOD)])
    document["images"][1]["file_name"] = "0.png"
    document["images"][2]["file_name"] = "gone.png"
    dataset = opened(written(folder, document))
    assert [len(each) for each in dataset.train.boxes] == [2]
    assert [(file.path, file.reason) for file in dataset.skipped] == [
        (str(folder / "gone.png"), "no such picture; it has 2 objects")
    ]
    assert "pictures are named twice, and their objects are joined" in dataset.notes[0]


def test_no_picture_is_there(folder):
    document = coco([(0, 0, GOOD)])
    document["images"][0]["file_name"] = "C:\\data\\gone.png"
    with pytest.raises(DataError) as caught:
        opened(written(folder, document))
    assert str(caught.value) == (
        f"none of the 1 pictures that {folder / 'boxes.json'} names is there, the first is "
        f"C:\\data\\gone.png: searched in {folder} and its sub-folders images; put the pictures "
        "into a folder next to the file"
    )


def test_no_annotation_is_an_error_of_the_user(folder):
    path = written(folder, coco([], count=3))
    with pytest.raises(UsageError, match=r"no label found for any of 3 pictures: .*boxes.json has"):
        opened(path)
    dataset = opened(path, "prediction")
    assert (dataset.labelled, len(dataset.train)) == (False, 3)


def test_paths_of_other_machines(folder):
    document = coco([(0, 0, GOOD), (1, 0, GOOD), (2, 0, GOOD)])
    names = ("images\\0.png", "/home/me/images/1.png", "../images/2.png")
    for entry, name in zip(document["images"], names, strict=True):
        entry["file_name"] = name
    (folder / "annotations").mkdir()
    dataset = opened(written(folder, document, "annotations/all.json"))
    assert [name[-12:] for name in dataset.train.names] == [f"images/{n}.png" for n in range(3)]


def test_splits_by_several_files(tmp_path):
    for split, seed in (("train", 0), ("val", 10), ("test", 20)):
        write_pictures(tmp_path / f"{split}2017", 3, seed=seed)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        document = coco([(number, 0, GOOD) for number in range(3)])
        write_json(tmp_path / "annotations" / f"instances_{split}2017.json", document)
        write_json(tmp_path / "annotations" / f"captions_{split}2017.json", {})
    for place in (tmp_path, tmp_path / "annotations/instances_train2017.json"):
        dataset = opened(place, "training")
        assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (3, 3, 3)
        assert "val2017" in dataset.validation.names[0]
        assert "test2017" in dataset.test.names[0]
        assert dataset.notes[0].startswith("the splits are those of the files of annotations: tr")
    only = opened(tmp_path / "annotations/instances_val2017.json", "training")
    assert (len(only.train), len(only.validation)) == (2, 1)
    assert "val2017" in only.train.names[0]


def test_splits_by_folders_with_a_file_each(tmp_path):
    for split, seed in (("train", 0), ("valid", 10)):
        write_pictures(tmp_path / split, 3, seed=seed)
        write_json(
            tmp_path / split / "_annotations.coco.json",
            coco([(number, 0, GOOD) for number in range(3)]),
        )
    for place in (tmp_path, tmp_path / "train/_annotations.coco.json"):
        dataset = opened(place, "training")
        assert (len(dataset.train), len(dataset.validation)) == (3, 3)
        assert "/valid/" in dataset.validation.names[0]


def test_several_files_of_unknown_splits(folder):
    for name in ("a.json", "b.json"):
        written(folder, coco([(0, 0, GOOD)]), name)
    with pytest.raises(UsageError, match=r"several files of annotations \(a.json, b.json\), and"):
        opened(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', r"is damaged in line 1, column 13"),
        ("[]", "is a list: expected the JSON form of COCO"),
        ('[{"score": 1}]', "has the results of a prediction"),
        ('{"shapes": [], "imagePath": "x"}', "is a file of labelme, about one picture"),
        ("3", "has no list called images"),
        ("\xff", "has no list called images|is damaged|cannot be read"),
    ],
)
def test_files_of_something_else(folder, content, message):
    (folder / "boxes.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        opened(folder / "boxes.json")


def test_arguments(folder):
    with pytest.raises(UsageError, match=r"write coco:FILE\.json"):
        load(None, DataOptions())
    with pytest.raises(UsageError, match=r"does not exist: give coco:FILE\.json"):
        opened(folder / "no.json")
    with pytest.raises(UsageError, match=r"there is no .json file in"):
        opened(folder)


def test_a_class_name_with_markup(folder):
    path = written(folder, coco([(0, 0, GOOD)], names=("<b>", "a & b")))
    assert opened(path).classes == ("<b>", "a & b")


def test_a_byte_order_mark_and_a_rotated_picture(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "turned.jpg", exif=exif)
    document = coco([(0, 0, (0, 0, 10, 5))])
    document["images"][0]["file_name"] = "turned.jpg"
    path = folder / "boxes.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(document).encode())
    assert opened(path).train.boxes[0].tolist() == [[25, 0, 30, 10]]
