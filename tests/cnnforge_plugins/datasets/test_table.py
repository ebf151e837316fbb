"""Tables that name pictures: which column, which file, which label."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import DataOptions, summarize
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets import csv
from cnnforge_plugins.datasets.table import load

NUMBERS = range(1, 13)


def kind(number):
    return ("cat", "dog")[number % 2]


def write(tmp_path, header, row, pictures, name="train.csv"):
    """Write a table, and a picture of the level `10 * number` at each path of `pictures`."""
    for number in NUMBERS:
        for picture in pictures:
            path = tmp_path / picture.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), 10 * number).save(path)
    lines = [header] * bool(header) + [row(number) for number in NUMBERS]
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(tmp_path / name)


def numbers_of(samples):
    return [int(image[0, 0, 0]) // 10 for image in samples.fetch(np.arange(len(samples)))]


@pytest.mark.parametrize(
    ("header", "row", "picture"),
    [
        ("id,label", lambda n: f"{n},{kind(n)}", "train/{}.png"),
        ("image_id,label", lambda n: f"{n}.jpg,{n % 2}", "train_images/{}.jpg"),
        ("breed,image", lambda n: f"{kind(n)},{n}", "images/{}.png"),
        ("datei;marke", lambda n: f"bär{n}.png;{kind(n)}", "bilder/bär{}.png"),
        ("path,y", lambda n: f"C:\\me\\pics\\{n}.png,{kind(n)}", "pics/{}.png"),
        ("path,y", lambda n: f"/kaggle/input/pics/{n}.png,{kind(n)}", "deep/er/pics/{}.png"),
        ("filename,label", lambda n: f"./sub/{n}.PNG,{kind(n)}", "sub/{}.PNG"),
        (",id,label", lambda n: f"{n - 1},{n},{kind(n)}", "train/{}.png"),
        ("image,name,fold", lambda n: f"{n}.png,{kind(n)},{n % 5}", "faces/{}.png"),
        ("", lambda n: f"{n}.png,{kind(n)}", "{}.png"),
        ("", lambda n: f"img_{n},{kind(n)}", "train/img_{}.png"),
        ("", lambda n: f"{n},{n % 2}", "train/{}.png"),
        ('"id"\t"label"', lambda n: f'"{n}"\t"{kind(n)}, big"', "train/{}.png"),
    ],
)
@pytest.mark.parametrize("reader", [csv.load, load])
def test_each_row_is_the_picture_that_it_names(tmp_path, header, row, picture, reader):
    path = write(tmp_path, header, row, [picture])
    dataset = reader(path, DataOptions(purpose="evaluation"))
    assert numbers_of(dataset.train) == list(NUMBERS)
    words = [dataset.classes[label] for label in dataset.train.labels]
    assert [word == words[0] for word in words] == [n % 2 == 1 for n in NUMBERS]
    assert dataset.skipped == ()
    assert len(dataset.validation) == 0
    trained = reader(path, DataOptions())
    assert trained.classes == dataset.classes
    assert len(trained.train) + len(trained.validation) == 12
    assert dataset.name == f"table:{path}"


@pytest.mark.parametrize(
    ("name", "folder"), [("train.csv", "train"), ("labels.csv", "train"), ("test.csv", "test")]
)
def test_the_folder_that_belongs_to_the_table_is_taken(tmp_path, name, folder):
    pictures = ["train/{}.png", "test/{}.png", "other/{}.png"]
    path = write(tmp_path, "id,label", lambda n: f"{n},{kind(n)}", pictures, name)
    for purpose in ("training", "evaluation", "prediction"):
        dataset = load(path, DataOptions(purpose=purpose))
        assert {name.split("/")[-2] for name in dataset.train.names} == {folder}


def test_the_ids_are_what_the_table_calls_the_pictures(tmp_path):
    rows = "id,image_path,label\n" + "".join(f"{n + 100},{n}.png,{kind(n)}\n" for n in (10, 9, 2))
    path = write(tmp_path, "filename,label", lambda n: f"{n}.png,{kind(n)}", ["x/{}.png"])
    dataset = load(path, DataOptions(purpose="prediction"))
    assert dataset.id_name == "filename"
    assert dataset.train.ids == [f"{n}.png" for n in NUMBERS]
    (tmp_path / "own.csv").write_text(rows)
    dataset = load(str(tmp_path / "own.csv"), DataOptions(purpose="prediction"))
    assert (dataset.id_name, dataset.train.ids) == ("id", ["110", "109", "102"])
    assert numbers_of(dataset.train) == [10, 9, 2]


def test_columns_that_are_not_used_are_said(tmp_path):
    row = "{0}.png,8,8,{1},1,2,3,4".format
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    path = write(tmp_path, header, lambda n: row(n, kind(n)), ["train/{}.png"])
    note = load(path, DataOptions(purpose="evaluation")).notes[0]
    assert "not used: 'width', 'height', 'xmin'" in note


@pytest.mark.parametrize(
    ("splits", "training", "validation", "test", "note"),
    [
        (("train", "val", "test"), range(1, 5), range(5, 9), range(9, 13), "a test at the end"),
        (("train", "dev", "train"), [1, 2, 3, 4, 9, 10, 11, 12], range(5, 9), (), "for validation"),
    ],
)
def test_a_split_in_the_table_is_used(tmp_path, splits, training, validation, test, note):
    path = write(
        tmp_path,
        "file,label,split",
        lambda n: f"{n}.png,{kind(n)},{splits[(n - 1) // 4]}",
        ["train/{}.png"],
    )
    dataset = load(path, DataOptions())
    assert numbers_of(dataset.train) == list(training)
    assert numbers_of(dataset.validation) == list(validation)
    assert (dataset.test is None) == (not test)
    assert not test or numbers_of(dataset.test) == list(test)
    assert any(text.endswith(note) for text in dataset.notes)


def test_a_test_split_is_never_for_validation(tmp_path):
    path = write(
        tmp_path,
        "file,label,Usage",
        lambda n: f"{n}.png,{kind(n)},{'Training' if n < 9 else 'PrivateTest'}",
        ["train/{}.png"],
    )
    dataset = load(path, DataOptions())
    assert sorted(numbers_of(dataset.train) + numbers_of(dataset.validation)) == [*range(1, 9)]
    assert len(dataset.validation) > 0
    assert numbers_of(dataset.test) == [9, 10, 11, 12]
    evaluated = load(path, DataOptions(purpose="evaluation"))
    assert numbers_of(evaluated.train) == [*range(1, 9)]
    assert numbers_of(evaluated.test) == [9, 10, 11, 12]
    predicted = load(path, DataOptions(purpose="prediction"))
    assert numbers_of(predicted.train) == [*range(1, 13)]
    assert predicted.test is None


def test_rows_without_a_picture_or_a_label_are_left_out_with_a_reason(tmp_path):
    path = write(tmp_path, "id,label", lambda n: f"{n},{kind(n)}", ["a/{}.png"], "list.csv")
    (tmp_path / "a" / "4.png").unlink()
    (tmp_path / "a" / "5.png").write_text("<html>")
    (tmp_path / "b").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "b" / "6.png")
    text = (tmp_path / "list.csv").read_text()
    (tmp_path / "list.csv").write_text(text.replace("7,dog", "7,"))
    dataset = load(path, DataOptions())
    reasons = {file.path.split("/")[-1]: file.reason for file in dataset.skipped}
    assert reasons["4"] == "there is no such picture; line 5 of list.csv names it"
    assert "not an image" in reasons["5.png"]
    assert "line 7 of list.csv may mean a/6.png and b/6.png" in reasons["6.png"]
    assert reasons["7.png"] == "there is no label; see line 8 of list.csv"
    assert len(dataset.train) + len(dataset.validation) == 8
    with pytest.raises(DataError, match=r"4 of 12 files in .*--strict"):
        load(path, DataOptions(strict=True))
    predicted = load(path, DataOptions(purpose="prediction"))
    assert not predicted.labelled
    assert predicted.skipped_ids == ("5", "6", "4")


def test_a_picture_with_two_labels_is_left_out_and_one_named_twice_is_used_once(tmp_path):
    path = write(tmp_path, "id,label", lambda n: f"{n},{kind(n)}", ["train/{}.png"])
    with open(path, "a") as file:
        file.write("1,cat\n2,cat\n")
    dataset = load(path, DataOptions())
    ((left_out, reason),) = dataset.skipped
    assert left_out.endswith("1.png")
    assert reason == "there are several labels; train.csv has 'cat' and 'dog'"
    assert any("2 rows of train.csv name a picture again" in note for note in dataset.notes)
    assert len(load(path, DataOptions(purpose="prediction")).train) == 14


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("id,label", lambda n: f"x{n},{kind(n)}", "none of the 12 pictures that 'id' of .* names"),
        ("id,marke,sex", lambda n: f"{n},{kind(n)},{'mf'[n // 7]}", "columns 'marke', 'sex' may"),
        ("id,cat,dog", lambda n: f"{n},{n % 2},{1 - n % 2}", "'cat', 'dog' have only 0 and 1"),
        ("id,label", lambda n: f"{n},c{n}", "'label' was taken for the labels.*12 different"),
        ("id,label", lambda n: f"{n},", "the column 'label' is empty"),
        ("id,label", lambda n: f"{n},cat", "holds only images of the class 'cat'"),
        ("filename", lambda n: f"{n}.png", "no column of labels: its columns are 'filename'"),
    ],
)
def test_the_message_names_the_column(tmp_path, header, row, message):
    path = write(tmp_path, header, row, ["train/{}.png"])
    with pytest.raises(DataError, match=message) as raised:
        csv.load(path, DataOptions())
    assert "\n" not in str(raised.value)


def test_a_table_of_pixels_and_no_table_are_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("label,pixel0,pixel1,pixel2,pixel3\n1,2,3,4,5\n")
    with pytest.raises(DataError, match=r"no column with the names of pictures.*csv:"):
        load(str(path), DataOptions())
    with pytest.raises(UsageError, match="table needs a file"):
        load(None, DataOptions())
    with pytest.raises(UsageError, match="does not exist"):
        load(str(tmp_path / "missing.csv"), DataOptions())


def test_pictures_without_labels_are_for_prediction(tmp_path):
    path = write(tmp_path, "image", lambda n: f"{13 - n}", ["test/{}.png"], "test.csv")
    dataset = csv.load(path, DataOptions(purpose="prediction"))
    assert not dataset.labelled
    assert numbers_of(dataset.train) == [13 - n for n in NUMBERS]
    with pytest.raises(DataError, match="no column of labels"):
        csv.load(path, DataOptions(purpose="evaluation"))


def test_rows_that_are_left_out_for_the_same_reason_are_counted_together(tmp_path):
    path = write(tmp_path, "id,label", lambda n: f"{n},{kind(n)}", ["train/{}.png"])
    with open(path, "a") as file:
        file.write("20,cat\n21,dog\n22,cat\n23,dog\n3,\n4,\n")
    assert summarize(load(path, DataOptions())).left_out == {
        "there is no such picture": 4,
        "there is no label": 2,
    }


def test_rows_of_one_unreadable_picture_keep_their_own_ids(tmp_path):
    path = write(tmp_path, "id,image", lambda n: f"{n},{n}.png", ["train/{}.png"])
    (tmp_path / "train" / "7.png").write_text("<html>")
    with open(path, "a") as file:
        file.write("99,7.png\n")
    dataset = load(path, DataOptions(purpose="prediction"))
    assert dataset.skipped_ids == ("7", "99")


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_may_have_another_unicode_form_on_disk(tmp_path, in_table, on_disk):
    def named(form):
        return lambda n: f"{unicodedata.normalize(form, 'é')}{n}.png"

    table, disk = named(in_table), named(on_disk)
    pictures = [unicodedata.normalize(on_disk, "bär/é{}.png")]
    path = write(tmp_path, "image,label", lambda n: f"{table(n)},{kind(n)}", pictures)
    dataset = load(path, DataOptions(purpose="evaluation"))
    assert numbers_of(dataset.train) == list(NUMBERS)
    assert all(name.endswith(disk(n)) for n, name in zip(NUMBERS, dataset.train.names, strict=True))


def test_a_folder_stands_for_its_table(tmp_path):
    path = write(tmp_path, "id,label", lambda n: f"{n},{kind(n)}", ["images/{}.png"])
    dataset = load(str(tmp_path), DataOptions(purpose="evaluation"))
    assert dataset.name == load(path, DataOptions(purpose="evaluation")).name
    assert numbers_of(dataset.train) == list(NUMBERS)
    (tmp_path / "test.csv").write_text("id\n1\n")
    message = (
        rf"{tmp_path} has 2 tables \(test.csv, train.csv\): name one, for instance table:{tmp_path}"
    )
    with pytest.raises(UsageError, match=message):
        load(str(tmp_path), DataOptions())
    with pytest.raises(UsageError, match=r"images has no .csv or .tsv file: name a table, table:"):
        load(str(tmp_path / "images"), DataOptions())
