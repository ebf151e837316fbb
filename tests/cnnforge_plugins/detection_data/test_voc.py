"""Annotations in the form of PASCAL VOC, as people bring them."""

import pytest
from boxes import write_pictures

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.detection_data.voc import load


def opened(path, purpose="evaluation"):
    return load(str(path), DataOptions(purpose=purpose))


def item(sides, name="cat", extra=""):
    texts = zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in texts)
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def xml(path, *items, name=None, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f"{path.stem}.png" if name is None else name
    declared = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    path.write_text(
        f"<annotation><filename>{name}</filename>{declared}{''.join(items)}</annotation>"
    )


@pytest.fixture
def folder(tmp_path):
    """A folder with four pictures, of which the last one has no object."""
    write_pictures(tmp_path / "JPEGImages", 4)
    for number in range(4):
        items = [item((5, 6, 14, 20))] if number < 3 else []
        xml(tmp_path / "Annotations" / f"{number}.xml", *items)
    return tmp_path


def test_boxes_are_counted_from_one_and_have_their_last_pixel(folder):
    xml(folder / "Annotations/1.xml", item((1, 1, 40, 30), "dog"), item((7, 8, 7, 8)))
    dataset = opened(folder)
    assert (dataset.name, dataset.classes) == (f"voc:{folder}", ("cat", "dog"))
    assert [each.tolist() for each in dataset.train.boxes] == [
        [[4, 5, 14, 20]],
        [[0, 0, 40, 30], [6, 7, 7, 8]],
        [[4, 5, 14, 20]],
        [],
    ]
    assert dataset.train.labels[1].tolist() == [1, 0]
    assert dataset.notes == ("1 picture has no object: background, which counts",)


def test_numbers_with_a_decimal_point_are_positions(folder):
    for number in range(3):
        xml(folder / f"Annotations/{number}.xml", item(("4.0", "5.5", "14.0", "20.25")))
    dataset = opened(folder)
    assert dataset.train.boxes[0].tolist() == [[4, 5.5, 14, 20.25]]
    assert dataset.notes[0].startswith("all numbers of the boxes have a decimal point, as labelme")


def test_a_few_decimal_points_are_counted_from_one(folder):
    xml(folder / "Annotations/1.xml", item(("4.5", "5", "14.5", "20")))
    assert opened(folder).train.boxes[1].tolist() == [[3.5, 4, 14.5, 20]]


def test_boxes_that_begin_at_zero(folder):
    xml(folder / "Annotations/1.xml", item((0, 3, 14, 20)))
    dataset = opened(folder)
    assert [each.tolist() for each in dataset.train.boxes[:2]] == [
        [[5, 6, 14, 20]],
        [[0, 3, 14, 20]],
    ]
    assert dataset.notes[0] == (
        "1 of 6 sides of boxes are 0, and VOC counts pixels from 1: all numbers are read as "
        "positions from 0"
    )


def test_difficult_objects_are_crowds(folder):
    xml(
        folder / "Annotations/0.xml",
        item((5, 6, 14, 20), extra="<difficult>1</difficult>"),
        item((5, 6, 14, 20), extra="<difficult/><truncated>1</truncated>"),
    )
    assert opened(folder).train.crowd[0].tolist() == [True, False]


def test_parts_of_an_object_are_not_objects(folder):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    xml(folder / "Annotations/0.xml", item((5, 6, 14, 20)).replace("</object>", f"{part}</object>"))
    dataset = opened(folder)
    assert dataset.train.boxes[0].tolist() == [[4, 5, 14, 20]]
    assert dataset.classes == ("cat",)


def test_bad_objects_are_listed(folder):
    xml(
        folder / "Annotations/0.xml",
        item((5, 6, 14, 20)),
        item((5, 6, 14, 20), name=""),
        "<object><name>cat</name></object>",
        item((5, 6, "x", 20)),
        item((15, 6, 14, 20)),
        item((16, 6, 14, 20)),
        item((50, 6, 60, 20)),
        item((30, 6, 41, 20)),
        "<object><name>cat</name><bndbox><xmin>3</xmin></bndbox></object>",
    )
    dataset = opened(folder, "inspection")
    assert [len(each) for each in dataset.train.boxes] == [2, 1, 1, 0]
    findings = dataset.inspection.objects
    assert [(each.place, each.left_out) for each in findings] == [
        (f"Annotations/0.xml, object {number}", number != 8) for number in (2, 3, 4, 5, 6, 7, 8, 9)
    ]
    assert [each.cause for each in findings][:5] == [
        "the object has no name",
        "the object has no bndbox",
        "the box has a number that is not finite",
        "the box has no area",
        "the box has a negative width or height",
    ]


def test_lists_give_the_splits(folder):
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("0\n1\n2\n3\n")
    (lists / "train.txt").write_text("0\r\n1  1\n")
    (lists / "val.txt").write_text("2.png\n")
    (lists / "cat_train.txt").write_text("3 -1\n")
    dataset = opened(folder, "training")
    assert (len(dataset.train), len(dataset.validation)) == (2, 1)
    assert dataset.notes[0] == (
        "1 of 4 annotated pictures are in no list of ImageSets/Main, and are left out"
    )
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    assert (len(opened(folder).train), opened(folder).notes[0][:9]) == (4, "1 picture")
    (lists / "trainval.txt").write_text("x\n")
    with pytest.raises(DataError, match=r"name none of the 4 files of annotations"):
        opened(folder)


def test_files_next_to_their_pictures(tmp_path):
    for split, seed in (("train", 0), ("valid", 50)):
        for name in write_pictures(tmp_path / split, 3, seed=seed):
            xml(tmp_path / split / f"{name[:-4]}.xml", item((5, 6, 14, 20)))
    dataset = opened(tmp_path, "training")
    assert (len(dataset.train), len(dataset.validation)) == (3, 3)
    assert all("/valid/" in name for name in dataset.validation.names)


def test_a_folder_in_a_folder(folder, tmp_path_factory):
    top = tmp_path_factory.mktemp("top")
    (top / "VOCdevkit").mkdir()
    folder.rename(top / "VOCdevkit" / "VOC2007")
    assert len(opened(top).train) == 4
    assert len(opened(top / "VOCdevkit/VOC2007/Annotations").train) == 4


def test_pictures_with_other_names(folder):
    xml(folder / "Annotations/0.xml", item((5, 6, 14, 20)), name="C:\\pictures\\0.png")
    xml(folder / "Annotations/1.xml", item((5, 6, 14, 20)), name="")
    xml(folder / "Annotations/2.xml", item((5, 6, 14, 20)), name="2")
    assert len(opened(folder).train) == 4


def test_a_picture_that_is_missing_or_twice(folder):
    (folder / "JPEGImages/1.png").unlink()
    xml(folder / "Annotations/2.xml", item((5, 6, 14, 20)), name="0.png")
    dataset = opened(folder)
    assert [len(each) for each in dataset.train.boxes] == [2, 0]
    assert [(file.path[-5:], file.reason) for file in dataset.skipped] == [
        ("1.png", "no such picture; it has 1 object")
    ]
    assert "2.png: a picture without objects needs a file without objects" in dataset.notes[0]
    assert "pictures are named twice, and their objects are joined" in dataset.notes[1]


def test_no_picture_is_there(folder):
    for path in (folder / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(
        DataError, match=r"none of the 4 pictures that the annotations in .* is there"
    ):
        opened(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>", "damaged XML: no element found"),
        ("", "damaged XML: no element found"),
        (
            '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
            "forbidden in XML: EntitiesForbidden",
        ),
    ],
)
def test_a_damaged_file_is_skipped(folder, text, reason):
    (folder / "Annotations/1.xml").write_text(text)
    dataset = opened(folder)
    assert len(dataset.train) == 3
    assert dataset.skipped[0].path.endswith("1.xml")
    assert dataset.skipped[0].reason.startswith(reason)


def test_other_xml_files_are_ignored(folder):
    (folder / "Annotations/readme.xml").write_text("<html/>")
    assert len(opened(folder).train) == 4


def test_no_label(tmp_path):
    write_pictures(tmp_path, 2)
    with pytest.raises(UsageError, match=r"no label found for any of 2 pictures in .*no XML file"):
        opened(tmp_path)
    (tmp_path / "a.xml").write_text("<html/>")
    with pytest.raises(UsageError, match="none of 1 XML files is an annotation"):
        opened(tmp_path)
    (tmp_path / "a.xml").write_text("<annotation>")
    with pytest.raises(UsageError, match=r"1 XML files cannot be read, the first is .*a\.xml: "):
        opened(tmp_path)


def test_arguments(tmp_path):
    with pytest.raises(UsageError, match="write voc:FOLDER"):
        load(None, DataOptions())
    with pytest.raises(UsageError, match="does not exist: give the folder"):
        opened(tmp_path / "no")


def test_a_class_name_with_markup(folder):
    xml(folder / "Annotations/0.xml", item((5, 6, 14, 20), name="&lt;b&gt;"))
    assert opened(folder).classes == ("<b>", "cat")
