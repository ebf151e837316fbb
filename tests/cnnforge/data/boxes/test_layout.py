"""Folders and files with boxes are recognised by their names."""

import pytest
from boxes import write_pictures

from cnnforge.data.boxes.layout import boxes_reader
from cnnforge.data.references import parse, path_reader

TEXTS = {
    "data.yaml": "train: images\n",
    "my.yaml": "train: images\n",
    "annotations.json": '{"images": [{"id": 1, "file_name": "0.png"}], "annotations": []}',
    "result.json": '{"annotations" : [{"bbox": [0, 0, 1, 1]}, ',
    "other.json": '{"images": [{"url": "0.png"}], "bbox": "none"}',
}


def tree(folder, *paths):
    for path in paths:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".png"):
            write_pictures(place.parent, 1)
        else:
            place.write_text(TEXTS.get(place.name, "x"))
    return folder


@pytest.mark.parametrize(
    ("paths", "reader"),
    [
        (["data.yaml", "images/0.png"], "yolo"),
        (["my.yaml", "0.png"], "yolo"),
        (["images/train/0.png", "labels/train/0.txt"], "yolo"),
        (["images/0.png", "labels/0.txt"], "yolo"),
        (["train/images/0.png", "train/labels/0.txt"], "yolo"),
        (["JPEGImages/0.png", "Annotations/0.xml"], "voc"),
        (["0.png", "0.xml"], "voc"),
        (["train/0.png", "train/0.xml"], "voc"),
        (["VOC2007/JPEGImages/0.png", "VOC2007/Annotations/0.xml"], "voc"),
        (["annotations/instances_train.json", "train/0.png"], "coco"),
        (["train/_annotations.coco.json", "train/0.png"], "coco"),
        (["cat/0.png", "dog/0.png"], None),
        (["cat/0.png", "cat/0.txt"], None),
        (["images/0.png", "labels/readme.md"], None),
        (["train/cat/0.png", "annotations.csv"], None),
        ([".hidden/data.yaml", "cat/0.png"], None),
        (["annotations.json", "images/0.png"], "coco"),
        (["result.json", "images/train/0.png", "images/val/0.png"], "coco"),
        (["train/result.json", "train/images/0.png"], "coco"),
        (["annotations.json", "images/cat/0.png", "images/dog/0.png"], None),
        (["annotations.json", "cat/0.png", "dog/0.png"], None),
        (["other.json", "images/0.png"], None),
        ([], None),
    ],
)
def test_folders(tmp_path, paths, reader):
    folder = tree(tmp_path, *paths)
    assert boxes_reader(folder) == reader
    assert path_reader(folder) == (reader or "images")


def test_a_yaml_file_of_something_else(tmp_path):
    folder = tree(tmp_path, "cat/0.png")
    (folder / "config.yaml").write_text("learning_rate: 1\n")
    assert path_reader(folder) == "images"


@pytest.mark.parametrize(
    ("paths", "reader"),
    [
        (["labels.csv", "images/0.png"], "table"),
        (["train.TSV", "Images/0.png", ".hidden/x", "readme.txt"], "table"),
        (["labels.csv", "images/0.png", "images/cat/1.png"], "images"),
        (["labels.csv", "images/cat/0.png", "images/dog/0.png"], "images"),
        (["labels.csv", "cat/0.png"], "images"),
        (["labels.csv", "images/0.png", "cat/0.png"], "images"),
        (["train.csv", "test.csv", "images/0.png"], "images"),
        (["labels.csv", "images/readme.txt"], "images"),
        (["labels.csv", "images/0.png", "labels/0.txt"], "yolo"),
    ],
)
def test_a_folder_with_a_table(tmp_path, paths, reader):
    assert path_reader(tree(tmp_path, *paths)) == reader


def test_files(tmp_path):
    tree(tmp_path, "data.yaml", "boxes.json")
    assert parse(str(tmp_path / "data.yaml")) == ("yolo", str(tmp_path / "data.yaml"))
    assert parse(str(tmp_path / "boxes.json")) == ("coco", str(tmp_path / "boxes.json"))


def test_a_folder_that_does_not_exist(tmp_path):
    assert boxes_reader(tmp_path / "no") is None
