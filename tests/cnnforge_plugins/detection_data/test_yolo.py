"""Pictures and label files in the form of YOLO, as people bring them."""

import os

import pytest
from boxes import write_pictures

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.detection_data.yolo import load

# The box 4 5 14 20 in a picture of 40 x 30 pixels.
LINE = "0 0.225 0.416667 0.25 0.5\n"
BOX = [4, 5, 14, 20]


def opened(path, purpose="evaluation"):
    return load(str(path), DataOptions(purpose=purpose))


def label(path, text=LINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def data(folder, *splits, count=3, yaml=None):
    """Write images/SPLIT and labels/SPLIT, and data.yaml with some content."""
    for number, split in enumerate(splits or [""]):
        write_pictures(folder / "images" / split, count, seed=100 * number)
        for picture in range(count):
            label(folder / "labels" / split / f"{picture}.txt")
    if yaml is not None:
        (folder / "data.yaml").write_text(yaml)
    return folder


def test_twin_folders_and_names(tmp_path):
    yaml = "train: images/train\nval: images/val\ntest: images/test\nnames: [cat, dog]\n"
    data(tmp_path, "train", "val", "test", yaml=yaml)
    for place in (tmp_path, tmp_path / "data.yaml"):
        dataset = opened(place, "training")
        assert dataset.classes == ("cat", "dog")
        assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (3, 3, 3)
        assert dataset.train.boxes[0].tolist() == [BOX]
        assert dataset.train.labels[0].tolist() == [0]
    assert dataset.notes == ("1 of 2 classes have no object: 'dog'",)


@pytest.mark.parametrize(
    "place",
    ["labels/{}.txt", "images/{}.txt", "images/labels/{}.txt", "labels/images/{}.txt"],
)
def test_places_of_labels(tmp_path, place):
    write_pictures(tmp_path / "images", 3)
    for number in (0, 2):
        label(tmp_path / place.format(number))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    dataset = opened(tmp_path)
    assert [each.tolist() for each in dataset.train.boxes] == [[BOX], [], [BOX]]
    folder = os.path.dirname(tmp_path / place)
    assert dataset.notes[0] == (
        f"1 of 3 pictures have no label file in {folder}; the first is "
        f"{tmp_path / 'images' / '1.png'}"
    )
    assert dataset.notes[1] == "1 picture has no object: background, which counts"


def test_names_as_a_dictionary_with_gaps(tmp_path):
    yaml = "train: images\nval: images\nnames:\n  4: dog\n  0: cat\n  7: 'on'\n"
    data(tmp_path, yaml=yaml)
    label(tmp_path / "labels" / "0.txt", LINE.replace("0 ", "4 ", 1) + LINE.replace("0 ", "7 ", 1))
    dataset = opened(tmp_path)
    assert dataset.classes == ("cat", "dog", "on")
    assert dataset.train.labels[0].tolist() == [1, 2]


def test_the_same_folder_for_both_is_no_split(tmp_path):
    data(tmp_path, yaml="train: images\nval: images\nnames: [cat]\n", count=5)
    dataset = opened(tmp_path, "training")
    assert (len(dataset.train), len(dataset.validation)) == (4, 1)


def test_line_ends_tabs_blanks_and_a_byte_order_mark(tmp_path):
    data(tmp_path, yaml="train: images\nval: images\nnames: [cat]\n")
    label(tmp_path / "labels/0.txt", b"\xef\xbb\xbf" + LINE.replace("\n", "\r\n").encode() * 2)
    label(tmp_path / "labels/1.txt", "\n\t" + LINE.replace(" ", "\t") + "   \n\n")
    label(tmp_path / "labels/2.txt", LINE.rstrip().replace("\n", "\r"))
    dataset = opened(tmp_path)
    assert [each.tolist() for each in dataset.train.boxes] == [[BOX, BOX], [BOX], [BOX]]


def test_polygons_become_boxes(tmp_path):
    data(tmp_path, yaml="train: images\nval: images\nnames: [cat]\n", count=1)
    polygon = "0 0.1 0.5 0.35 0.166667 0.2 0.666667 0.3 0.3\n"
    oriented = "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n"
    label(tmp_path / "labels/0.txt", polygon + oriented + LINE.rstrip() + " 0.87\n")
    boxes = opened(tmp_path).train.boxes[0]
    assert boxes.tolist() == [[4, 5, 14, 20], [4, 3, 8, 6], BOX]


def test_points_of_a_pose_are_ignored(tmp_path):
    yaml = "train: images\nval: images\nkpt_shape: [2, 3]\nnames: [cat]\n"
    data(tmp_path, yaml=yaml, count=1)
    label(tmp_path / "labels/0.txt", LINE.rstrip() + " 0.1 0.1 2 0.2 0.2 2\n")
    assert opened(tmp_path).train.boxes[0].tolist() == [BOX]


def test_bad_lines_are_listed_with_file_and_line(tmp_path):
    data(tmp_path, yaml="train: images\nval: images\nnames: [cat, dog]\n")
    label(
        tmp_path / "labels/1.txt",
        LINE
        + "7 0.5 0.5 0.1 0.1\n"
        + "-1 0.5 0.5 0.1 0.1\n"
        + "elk 0.5 0.5 0.1 0.1\n"
        + "0 0.5 0.5 0.1\n"
        + "0 0.5 0.5 x 0.1\n"
        + "0 0.5 0.5 0 0.1\n"
        + "0 0.5 0.5 -0.1 0.1\n"
        + "0 1.5 0.5 0.1 0.1\n"
        + "0 0.98 0.5 0.1 0.1\n"
        + "0 nan 0.5 0.1 0.1\n"
        + "dog 0.5 0.5 0.1 0.1\n",
    )
    dataset = opened(tmp_path, "inspection")
    assert [len(each) for each in dataset.train.boxes] == [1, 3, 1]
    assert dataset.train.labels[1].tolist() == [0, 0, 1]
    texts = [each.text.split(": ", 1) for each in dataset.inspection.objects]
    assert [place for place, _ in texts] == [
        f"labels/1.txt, line {line}" for line in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    ]
    assert texts[0][1] == "the class is not among the names of the classes (class 7)"
    assert texts[3][1].endswith("nor the corners of a polygon (3 numbers after the class)")
    used = opened(tmp_path)
    assert used.notes[0].startswith("3 of 14 objects are left out: the class is not among the na")


def test_pixels_where_fractions_are_meant(tmp_path):
    data(tmp_path, yaml="train: images\nval: images\nnames: [cat]\n")
    for number in range(3):
        label(tmp_path / f"labels/{number}.txt", "0 9 12.5 10 15\n")
    dataset = opened(tmp_path)
    assert dataset.train.boxes[0].tolist() == [BOX]
    assert "numbers greater than 1, and YOLO has fractions" in dataset.notes[0]


def test_lists_of_pictures(tmp_path):
    data(tmp_path, "a", "b", yaml="train: train.txt\nval: [val.txt]\nnames: [cat]\n")
    (tmp_path / "train.txt").write_text("./images/a/0.png\r\nimages/a/1.png\n\nimages/a/9.png\n")
    (tmp_path / "val.txt").write_text(f"{tmp_path}/images/b/2.png\n")
    dataset = opened(tmp_path, "training")
    assert [name[-5:] for name in dataset.train.names] == ["0.png", "1.png"]
    assert [name[-7:] for name in dataset.validation.names] == ["b/2.png"]
    # A label file is without a picture if no list names its picture.
    assert sorted(os.path.relpath(file.path, tmp_path) for file in dataset.skipped) == [
        *("images/a/9.png", "labels/a/2.txt", "labels/b/0.txt", "labels/b/1.txt")
    ]
    assert {file.reason for file in dataset.skipped} == {
        "no such file or directory",
        "there is no picture for this label file",
    }


@pytest.mark.parametrize(
    "yaml",
    [
        "path: ../elsewhere/toys\ntrain: images/train\nval: images/val\n",
        "path: toys\ntrain: images/train\nval: images/val\n",
        "train: ../images/train\nval: ../images/val\n",
        "path: {folder}\ntrain: images\\train\nval: images/val\n",
    ],
)
def test_paths_of_other_machines(tmp_path, yaml):
    folder = tmp_path / "toys"
    data(folder, "train", "val", yaml=yaml.replace("{folder}", str(folder)) + "names: [cat]\n")
    dataset = opened(folder, "training")
    assert (len(dataset.train), len(dataset.validation)) == (3, 3)


def test_folders_without_a_yaml_file(tmp_path):
    data(tmp_path, "train", "val")
    dataset = opened(tmp_path, "training")
    assert (len(dataset.train), len(dataset.validation)) == (3, 3)
    assert dataset.classes == ("0",)
    assert dataset.notes[0] == (
        "the data do not name the classes, so their numbers are the names: write the names into "
        f"{tmp_path / 'classes.txt'}, one in a line"
    )
    only = opened(tmp_path / "images" / "train", "training")
    assert (len(only.train), len(only.validation)) == (2, 1)


def test_the_number_of_classes_instead_of_names(tmp_path):
    data(tmp_path, yaml="train: images\nval: images\nnc: 3\n")
    assert opened(tmp_path).classes == ("0", "1", "2")


def test_no_label_says_where_it_was_searched(tmp_path):
    write_pictures(tmp_path / "images" / "train", 2)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cat]\n")
    with pytest.raises(UsageError) as caught:
        opened(tmp_path)
    places = ("labels/train", "images/train", "images/train/labels", "images/labels/train")
    searched = ", ".join(f"{tmp_path}/{place}/0.txt" for place in (*places, "images/labels"))
    assert str(caught.value) == (
        f"no label found for any of 2 pictures in {tmp_path}: searched for the labels of 0.png in "
        f"{searched}; put the label files into a folder labels next to images, or next to the "
        "pictures"
    )
    assert not opened(tmp_path, "prediction").labelled


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: [\n", r"data.yaml is damaged in line \d"),
        ("!!python/object/apply:os.system ['true']\n", "data.yaml is damaged in line 1"),
        ("- train\n", "has no keys: expected the keys train, val and names"),
        ("names: [cat]\ntrain:\n", "has no key train or val"),
        ("train: images\nval: images\nnames: {a: cat}\n", "the keys of names are not all whole"),
    ],
)
def test_a_damaged_yaml_file(tmp_path, yaml, message):
    data(tmp_path, yaml=yaml)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "data.yaml")


def test_a_folder_that_is_not_there(tmp_path):
    data(tmp_path, yaml="train: pictures\nval: images\nnames: [cat]\n")
    with pytest.raises(UsageError, match=r"names pictures for train, which is not there: searched"):
        opened(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images\nval: images\ntest: no\nnames: [cat]\n")
    assert len(opened(tmp_path).train) == 3


def test_several_yaml_files(tmp_path):
    data(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("train: images\nval: images\nnames: [cat]\n")
    with pytest.raises(UsageError, match=r"several files that name pictures \(a.yaml, b.yaml\)"):
        opened(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [dog]\n")
    assert opened(tmp_path).classes == ("dog",)


def test_arguments(tmp_path):
    with pytest.raises(UsageError, match=r"write yolo:data\.yaml or yolo:FOLDER"):
        load(None, DataOptions())
    with pytest.raises(UsageError, match=r"does not exist: give the file data\.yaml"):
        opened(tmp_path / "no")
    with pytest.raises(UsageError, match="there is no picture in"):
        opened(tmp_path)


def test_a_class_name_with_markup(tmp_path):
    data(tmp_path, yaml="train: images\nval: images\nnames: ['<b>']\n")
    assert opened(tmp_path).classes == ("<b>",)


def test_a_name_for_two_classes(tmp_path):
    data(tmp_path, yaml="train: images\nval: images\nnames: [cat, dog, cat]\n", count=2)
    label(tmp_path / "labels/1.txt", LINE.replace("0 ", "2 ", 1))
    dataset = opened(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert [each.tolist() for each in dataset.train.labels] == [[0], [0]]
    assert dataset.notes[0] == (
        "1 of 2 names of classes are there several times, and are one class each; the first is cat"
    )


def test_pictures_of_other_formats_and_numbers_that_overflow(tmp_path):
    data(tmp_path, yaml="train: images\nval: images\nnames: [cat]\n")
    (tmp_path / "images" / "raw.nef").write_bytes(b"x")
    label(tmp_path / "labels/1.txt", "0 1e308 0 1e308 1\n0 0 0 1e309 1\n")
    dataset = opened(tmp_path)
    assert [os.path.basename(file.path) for file in dataset.skipped] == ["raw.nef"]
    assert [len(each) for each in dataset.train.boxes] == [1, 0, 1]


def test_a_folder_of_labels_in_upper_case(tmp_path):
    data(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "Labels")
    assert [len(each) for each in opened(tmp_path).train.boxes] == [1, 1, 1]
