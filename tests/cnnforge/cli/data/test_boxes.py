"""`cnnforge data` on data with boxes: check, show and convert."""

import json

import numpy as np
import pytest
from boxes import coco, write_json, write_pictures
from PIL import Image

from cnnforge.cli import main
from cnnforge.cli.data import _boxes
from cnnforge.data import DataOptions
from cnnforge.reporting import contact_sheet
from cnnforge_plugins.detection_data.coco import load as load_coco
from cnnforge_plugins.detection_data.voc import load as load_voc
from cnnforge_plugins.detection_data.yolo import load as load_yolo

pytestmark = pytest.mark.usefixtures("quick_figures")

READERS = {"coco": load_coco, "yolo": load_yolo, "voc": load_voc}
BOXES = [
    (0, 0, (4, 5, 10, 15)),
    (0, 1, (0, 0, 40, 30)),
    (1, 1, (3, 3, 9, 9)),
    (2, 0, (20, 10, 8, 6)),
    (3, 0, (1, 2, 3, 4)),
]


@pytest.fixture
def data(tmp_path):
    """Five pictures; the last one has no object."""
    write_pictures(tmp_path / "data" / "images", 5)
    return write_json(tmp_path / "data" / "boxes.json", coco(BOXES, count=5))


def change(data, function):
    document = json.loads(data.read_text())
    function(document)
    data.write_text(json.dumps(document))


def report(capsys, data, *options, code=0):
    capsys.readouterr()
    assert main(["data", "check", str(data), "--json", *options]) == code
    return json.loads(capsys.readouterr().out)


def test_good_data(data, capsys):
    found = report(capsys, data)
    assert found["classes"] == {"cat": {"all": 3}, "dog": {"all": 2}}
    assert (found["images"], found["parts"], found["wrong"]) == (5, {"all": 5}, 0)
    assert found["objects"] == {
        "total": 5,
        "per_image": [0, 1, 2],
        "sizes": [[4, 3], [9, 9], [30, 40]],
        "by_size": {"small": 4, "medium": 1, "large": 0},
        "background": 1,
        "crowds": 0,
    }
    assert [each["text"] for each in found["findings"]] == [
        "1 object is less than 4 pixels high or wide",
        "1 image has no object: background, which a detector learns from, too",
    ]
    assert main(["data", "check", str(data)]) == 0
    output = capsys.readouterr().out
    assert f"coco:{data}: 5 images with 5 objects in 2 classes" in output
    assert "objects: 0 to 2 per image, median 1; size 4x3 to 30x40, median 9x9" in output
    assert "nothing is wrong" in output


def test_bad_boxes(data, capsys):
    def worse(document):
        for number, box in enumerate([(5, 5, 0, 3), (90, 90, 3, 3), (35, 5, 9, 9), (3, 3, 9, 9)]):
            document["annotations"].append(
                {"id": 100 + number, "image_id": 1, "category_id": 1, "bbox": list(box)}
            )
        document["annotations"][0]["iscrowd"] = 1

    change(data, worse)
    found = report(capsys, data, code=1)
    texts = {each["text"]: (each["wrong"], each["examples"]) for each in found["findings"]}
    assert texts["1 object is left out: the box has no area"] == (
        True,
        ["boxes.json, annotation 100: 5 5 5 8 in a picture of 40x30 pixels"],
    )
    assert texts["1 object is left out: the box is outside of the picture"][0]
    assert texts["1 object is changed: the box leaves the picture, and is clipped"] == (
        False,
        ["boxes.json, annotation 102: 35 5 44 14 in a picture of 40x30 pixels"],
    )
    doubled = "1 box is there several times, with the same class, in the same image"
    assert not texts[doubled][0]
    assert texts[doubled][1][0].endswith("1.png: 2 times dog 3 3 12 12")
    assert (found["wrong"], found["objects"]["crowds"]) == (2, 1)


def test_copies_with_other_objects(data, capsys):
    images = data.parent / "images"
    (images / "1.png").write_bytes((images / "0.png").read_bytes())
    (images / "4.png").write_bytes((images / "2.png").read_bytes())
    found = report(capsys, data, code=1)
    assert found["findings"][0]["text"].startswith("2 images with different labels for exact copi")
    assert found["findings"][0]["examples"][0].endswith("0.png (1 cat, 1 dog) = 1.png (1 dog)")


def test_a_class_that_cannot_be_learned(tmp_path, capsys):
    for split, label in (("train", 0), ("val", 1)):
        write_pictures(tmp_path / split, 3, seed=50 * label)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        document = coco([(number, label, (1, 1, 20, 20)) for number in range(3)])
        write_json(tmp_path / "annotations" / f"instances_{split}.json", document)
    found = report(capsys, tmp_path, code=1)
    assert found["parts"] == {"train": 3, "validation": 3}
    assert found["findings"][0] == {
        "text": "1 class has objects, but none for training: a detector cannot learn them",
        "wrong": True,
        "examples": ["'dog'"],
    }


@pytest.fixture
def drawn(monkeypatch):
    """The boxes that are drawn on sheets: images, boxes in pixels, and whether each is orange."""
    calls = []
    own = _boxes.boxed
    monkeypatch.setattr(_boxes, "boxed", lambda *given: calls.append(given) or own(*given))
    return calls


def test_a_sheet_of_the_data(data, tmp_path, drawn):
    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", str(data), "--sheet", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert image.width > 300
    # Three pictures with cats, two with dogs, and the one without objects.
    assert [len(boxes) for _, boxes, _ in drawn] == [2, 1, 1, 2, 1, 0]
    image, boxes, own = drawn[0]
    assert own.tolist() == [True, False]
    assert (image.shape, boxes[0].tolist()) == ((30, 40, 3), [4, 5, 14, 20])


def test_lines_are_around_the_object():
    image = np.full((19, 19, 1), 90, np.uint8)
    picture = _boxes.boxed(image, np.array([[4.0, 5, 9, 11]]), np.array([True]))
    # The image is enlarged ten times; the inside of the box is unchanged.
    assert picture.shape == (190, 190, 3)
    assert (picture[50:110, 40:90] == 90).all()
    assert picture[49, 60].tolist() == picture[60, 90].tolist() == list(_boxes._OWN)
    assert picture[47, 60].tolist() == [0, 0, 0]
    assert (picture[46, 60] == 90).all()


def test_large_images_are_reduced_with_their_boxes(tmp_path, drawn):
    write_pictures(tmp_path / "images", 2, size=(400, 300))
    document = coco([(0, 0, (40, 60, 200, 90)), (1, 0, (0, 0, 400, 300))], size=(400, 300))
    path = write_json(tmp_path / "boxes.json", document)
    assert main(["data", "check", str(path), "--sheet", str(tmp_path / "sheet.png")]) == 0
    image, boxes, _ = drawn[0]
    assert max(image.shape) == _boxes.CELL
    assert np.allclose(boxes / _boxes.CELL * 400, [[40, 60, 240, 150]], atol=2)


def test_sizes_of_large_boxes_are_plain_numbers(tmp_path, capsys):
    write_pictures(tmp_path / "images", 2, size=(1600, 1300))
    document = coco([(0, 0, (0, 0, 1500, 1234.56)), (1, 0, (0, 0, 20, 30))], size=(1600, 1300))
    assert main(["data", "check", str(write_json(tmp_path / "boxes.json", document))]) == 0
    assert "size 30x20 to 1234.6x1500, median 632.3x760" in capsys.readouterr().out


def test_show_draws_what_a_network_sees(data, tmp_path, drawn, capsys):
    sheet = ["--output", str(tmp_path / "sheet.png")]
    assert main(["data", "show", str(data), "--image-size", "64x64", *sheet]) == 0
    image, boxes, own = drawn[0]
    # 40 x 30 pixels are letterboxed: 64 x 48, 8 gray rows above and below.
    assert (image[0] == 114).all()
    dataset = load_coco(str(data), DataOptions(image_size=(64, 64)))
    row = next(r for r, labels in enumerate(dataset.train.labels) if 0 in labels)
    assert np.allclose(boxes, dataset.train.boxes[row] * 1.6 + [0, 8, 0, 8])
    assert own.tolist() == (dataset.train.labels[row] == 0).tolist()


def test_show_moves_boxes_with_an_augmentation(data, tmp_path, drawn):
    sheet = ["--output", str(tmp_path / "sheet.png")]
    options = ["--image-size", "48x64", "--augment", "flip"]
    assert main(["data", "show", str(data), *options, *sheet]) == 0
    plain, *epochs = [boxes[np.argsort(boxes[:, 1])] for _, boxes, _ in drawn[:5]]
    flipped = plain * [-1, 1, -1, 1] + [64, 0, 64, 0]
    flipped = flipped[:, [2, 1, 0, 3]]
    assert all(np.allclose(each, plain) or np.allclose(each, flipped) for each in epochs)
    assert any(np.allclose(each, flipped) for each in epochs)


def test_the_model_for_boxes_bounds_the_size(tmp_path, monkeypatch):
    write_pictures(tmp_path / "images", 3, size=(900, 600))
    document = coco([(n, 0, (40, 60, 200, 90)) for n in range(3)], size=(900, 600))
    path = write_json(tmp_path / "boxes.json", document)
    titles = []
    monkeypatch.setattr(
        contact_sheet,
        "contact_sheet",
        lambda path, rows, *, title, **more: path.touch() or titles.append(title) or [],
    )
    output = ["--output", str(tmp_path / "a.png")]
    assert main(["data", "show", str(path), *output]) == 0
    assert main(["data", "show", str(path), "--model", "lenet", *output]) == 0
    assert [title.split(",")[0] for title in titles][1] == "64x96"
    height, width = map(int, titles[0].split(",")[0].split("x"))
    assert 96 < width < 900
    assert height < width


@pytest.fixture
def with_splits(tmp_path):
    """Data with splits, a crowd, a class without objects, and pictures of the same name."""
    for number, split in enumerate(("train", "val", "test")):
        write_pictures(tmp_path / "in" / f"{split}", 3, seed=number)
        (tmp_path / "in" / "annotations").mkdir(exist_ok=True)
        document = coco(
            [(0, 0, (1, 2, 3, 4)), (0, 1, (10, 10, 30, 20)), (1, 0, (5, 6, 7, 8))],
            names=("cat", "a <b> & c", "elk"),
            count=3,
        )
        document["annotations"][1]["iscrowd"] = int(split == "train")
        write_json(tmp_path / "in" / "annotations" / f"instances_{split}.json", document)
    return tmp_path / "in"


def contents(kind, path):
    """Return what a picture has, by its content: the splits, the classes and the boxes."""
    dataset = READERS[kind](str(path), DataOptions(purpose="inspection"))
    samples, classes = dataset.train, dataset.classes
    return sorted(
        (
            digest.hex(),
            split,
            [
                (classes[label], *np.round(box, 6).tolist(), bool(crowd))
                for label, box, crowd in zip(
                    samples.labels[row], samples.boxes[row], samples.crowd[row], strict=True
                )
            ],
        )
        for row, (digest, split) in enumerate(
            zip(dataset.splits[0].digests, dataset.inspection.splits, strict=True)
        )
    )


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_convert_keeps_pictures_splits_and_boxes(with_splits, tmp_path, capsys, kind):
    place = tmp_path / "out"
    capsys.readouterr()
    assert main(["data", "convert", str(with_splits), f"{kind}:{place}"]) == 0
    output = capsys.readouterr()
    assert "written: 9 images with 9 objects in 3 classes" in output.out
    assert f"train on them with: cnnforge train --data {kind}:{place}" in output.out
    expected = contents("coco", with_splits)
    if kind == "yolo":
        expected = [(*own, [box for box in boxes if not box[-1]]) for *own, boxes in expected]
        assert "note: 1 object that are crowds left out" in output.err
    if kind == "voc":
        assert "note: 1 class without an object: voc does not name such a class" in output.err
        assert "note: crowds are marked as difficult objects in voc" in output.err
    assert contents(kind, place) == expected
    back = tmp_path / "back"
    assert main(["data", "convert", f"{kind}:{place}", f"coco:{back}"]) == 0
    assert contents("coco", back) == expected
    # The bare path is recognised.
    assert main(["data", "check", str(place)]) in (0, 1)
    assert f"{kind}:{place}: 9 images" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_a_bare_folder_without_splits_is_recognised(data, tmp_path, capsys, kind):
    assert main(["data", "convert", str(data), f"{kind}:{tmp_path / 'out'}"]) == 0
    capsys.readouterr()
    assert main(["data", "check", str(tmp_path / "out")]) in (0, 1)
    assert capsys.readouterr().out.startswith(f"{kind}:{tmp_path / 'out'}: ")


def test_ids_of_images_are_kept(data, tmp_path):
    def other_ids(document):
        for entry in document["images"]:
            entry["id"] = 1000 - entry["id"]
        for entry in document["annotations"]:
            entry["image_id"] = 1000 - entry["image_id"]

    change(data, other_ids)
    assert main(["data", "convert", str(data), f"coco:{tmp_path / 'out'}"]) == 0
    document = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [entry["id"] for entry in document["images"]] == [1000, 999, 998, 997, 996]
    assert min(entry["id"] for entry in document["annotations"]) == 1


def test_voc_has_whole_numbers_or_positions(data, tmp_path, capsys):
    assert main(["data", "convert", str(data), f"voc:{tmp_path / 'whole'}"]) == 0
    text = (tmp_path / "whole" / "Annotations" / "0.xml").read_text()
    assert "<xmin>5</xmin><ymin>6</ymin><xmax>14</xmax><ymax>20</ymax>" in text
    change(data, lambda document: document["annotations"][0].update(bbox=[1e-7, 0.3, 10.1, 3]))
    assert main(["data", "convert", str(data), f"voc:{tmp_path / 'parts'}"]) == 0
    assert "some boxes do not end at whole pixels" in capsys.readouterr().err
    dataset = load_voc(str(tmp_path / "parts"), DataOptions(purpose="inspection"))
    original = load_coco(str(data), DataOptions(purpose="inspection"))
    for own, other in zip(dataset.train.boxes, original.train.boxes, strict=True):
        assert own.tolist() == other.tolist()


def test_unusable_boxes_are_not_written(data, tmp_path, capsys):
    change(data, lambda document: document["annotations"][0].update(bbox=[1, 1, 0, 3]))
    assert main(["data", "convert", str(data), f"yolo:{tmp_path / 'out'}"]) == 0
    output = capsys.readouterr()
    assert "note: 1 object with an unusable box left out; 'cnnforge data check' lists" in output.err
    assert "5 images with 4 objects" in output.out


@pytest.mark.parametrize("target", ["images:out", "table:out", "out.npz", "idx:out"])
def test_formats_of_classes_do_not_hold_boxes(data, monkeypatch, capsys, target):
    monkeypatch.chdir(data.parent)
    assert main(["data", "convert", str(data), target]) == 2
    assert "stores a class for each image: use one of coco, yolo, voc" in capsys.readouterr().err
    assert not (data.parent / "out").exists()


def test_formats_of_boxes_do_not_hold_classes(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "convert", "mnist5k", "coco:out"]) == 2
    assert "mnist5k has classes, and coco stores boxes for each image" in capsys.readouterr().err


def test_scenes_can_be_written(tmp_path, capsys):
    assert main(["data", "convert", "digits_in_scenes:3", f"yolo:{tmp_path / 'out'}"]) == 0
    assert "written: 603 images" in capsys.readouterr().out
    dataset = load_yolo(str(tmp_path / "out"), DataOptions())
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (3, 300, 300)


def test_no_label_exits_with_2(tmp_path, capsys):
    write_pictures(tmp_path / "images", 2)
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [cat]\n")
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "no label found for any of 2 pictures" in capsys.readouterr().err


def test_show_without_objects_for_training(tmp_path, capsys):
    for split, boxes in (("train", []), ("val", [(0, 0, (1, 1, 20, 20))])):
        write_pictures(tmp_path / split, 2, seed=len(boxes))
        (tmp_path / "annotations").mkdir(exist_ok=True)
        document = coco(boxes, count=2)
        write_json(tmp_path / "annotations" / f"instances_{split}.json", document)
    sheet = tmp_path / "sheet.png"
    assert main(["data", "show", str(tmp_path), "--output", str(sheet)]) == 1
    assert "has no object for training: nothing to show" in capsys.readouterr().err
    assert not sheet.exists()


def test_images_that_look_alike(data, capsys):
    images = data.parent / "images"
    with Image.open(images / "0.png") as image:
        image.resize((80, 60)).save(images / "1.png")
    found = report(capsys, data, "--near")
    assert [it["name"] for it in found["alike"][0]["images"]] == ["0.png", "1.png"]
