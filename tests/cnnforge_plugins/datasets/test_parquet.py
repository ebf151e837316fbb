"""Parquet files as people bring them: those of Hugging Face, of pandas, and tables of names."""

import io
import json
import os
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import DataOptions, SkippedFile
from cnnforge.errors import CnnforgeError, DataError, UsageError
from cnnforge_plugins.datasets.parquet import in_parts, load
from cnnforge_plugins.datasets.shared import parquet_file
from cnnforge_plugins.datasets.table import load as load_table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

KINDS = ["cat", "dog", "elk"]


def png(seed, size=(6, 5)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def images(count, first=0):
    return [{"bytes": png(n), "path": f"{n}.png"} for n in range(first, first + count)]


def class_label(names=KINDS):
    return {"names": names, "_type": "ClassLabel"}


def write(path, columns, features=None, **options):
    table = pa.table(columns)
    if features is not None:
        content = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": content})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return str(path)


def opened(path, purpose="training", **options):
    return load(str(path), DataOptions(purpose=purpose, **options))


def labels(count=12):
    return [n % 3 for n in range(count)]


HF = {"image": {"_type": "Image"}, "label": class_label()}


@pytest.mark.parametrize(
    ("columns", "features", "classes"),
    [
        ({"image": images(12), "label": labels()}, HF, tuple(KINDS)),
        ({"img": images(12), "label": labels()}, None, ("0", "1", "2")),
        ({"image": [png(n) for n in range(12)], "label": labels()}, None, ("0", "1", "2")),
        ({"image": images(12), "label": [KINDS[n] for n in labels()]}, None, tuple(KINDS)),
        ({"image": images(12), "digit": labels()}, {"digit": class_label()}, tuple(KINDS)),
        ({"id": range(12), "x": images(12), "weather": labels()},
         {"weather": class_label(["wet", "dry", "hot"])}, ("wet", "dry", "hot")),
        ({"image": images(12), "label": [float(n) for n in labels()]}, None, ("0", "1", "2")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"row_group_size": 5, "compression": "none"}])
def test_columns_are_understood(tmp_path, columns, features, classes, options):
    dataset = opened(write(tmp_path / "x.parquet", columns, features, **options))
    assert dataset.classes == classes
    assert len(dataset.train) + len(dataset.validation) == 12
    for part in (dataset.train, dataset.validation):
        rows = [int(name.rsplit("row ")[1]) for name in part.names]
        assert part.labels.tolist() == [n % 3 for n in rows]
        expected = np.stack([pixels(png(n)) for n in rows])
        np.testing.assert_array_equal(part.fetch(np.arange(len(rows))), expected)


def test_the_finest_classes_are_taken_and_it_is_said(tmp_path):
    columns = {
        "img": images(12),
        "coarse_label": [n % 2 for n in range(12)],
        "fine_label": labels(),
    }
    features = {"coarse_label": class_label(["a", "b"]), "fine_label": class_label()}
    dataset = opened(write(tmp_path / "x.parquet", columns, features))
    assert dataset.classes == tuple(KINDS)
    assert "labels are read from 'fine_label', not from 'coarse_label'" in dataset.notes


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001-a1b2.parquet", "{}/0000.parquet"])
def test_the_layout_of_the_hub_has_splits(tmp_path, layout):
    for name, first, count in (("train", 0, 9), ("validation", 20, 3), ("test", 30, 6)):
        columns = {"image": images(count, first), "label": labels(count)}
        write(tmp_path / layout.format(name), columns, HF)
    (tmp_path / "README.md").write_text("x")
    dataset = opened(tmp_path)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [9, 3, 6]
    only = opened(tmp_path / layout.format("train"))
    assert len(only.train) + len(only.validation) == 9
    many = opened(tmp_path / layout.format("*"))
    assert len(many.test) == 6


def test_a_split_column_is_used(tmp_path):
    split = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    columns = {"image": images(12), "label": labels(), "split": split}
    dataset = opened(write(tmp_path / "x.parquet", columns))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [6, 3, 3]


def test_a_test_split_without_labels_is_left_out(tmp_path):
    write(tmp_path / "train-0.parquet", {"image": images(12), "label": labels()}, HF)
    write(tmp_path / "test-0.parquet", {"image": images(3, 20), "label": [-1] * 3}, HF)
    dataset = opened(tmp_path)
    assert dataset.test is None
    assert "the 3 images of the test split have no labels: left out" in dataset.notes
    assert not opened(tmp_path / "test-0.parquet", "prediction").labelled


def test_rows_that_cannot_be_used_have_a_reason(tmp_path):
    cells = images(12)
    cells[3] = {"bytes": b"<html>", "path": None}
    cells[4] = {"bytes": None, "path": "gone.png"}
    cells[5] = None
    cells[6] = {"bytes": None, "path": "near.png"}
    (tmp_path / "near.png").write_bytes(png(99))
    numbers = labels()
    numbers[7] = None
    path = write(tmp_path / "x.parquet", {"image": cells, "label": numbers}, HF)
    dataset = opened(path)
    assert len(dataset.train) + len(dataset.validation) == 8
    reasons = {os.path.basename(file.path): file.reason for file in dataset.skipped}
    assert "not an image" in reasons["row 3"]
    assert reasons["row 4"] == "there is no file gone.png"
    assert reasons["row 5"] == "the cell has no image"
    assert reasons["row 7"] == "it has no label"
    assert any(n.endswith("near.png") for n in (*dataset.train.names, *dataset.validation.names))
    with pytest.raises(DataError, match=r"4 of 12 files .*--strict"):
        opened(path, strict=True)


@pytest.mark.parametrize(
    ("columns", "features", "message"),
    [
        ({"a": [1, 2], "label": [0, 1]}, None, r"no column of images, only a \(int64\)"),
        ({"image": images(12)}, None, "has no labels: expected a column of labels"),
        (
            {"image": images(12), "labels": [[n % 3, 0] for n in range(12)]},
            {"image": {}, "labels": {"feature": class_label(), "_type": "Sequence"}},
            r"'labels' is a column of list.*\(multi-label\) are not read",
        ),
        ({"image": images(12), "label": [["a"]] * 12}, None, r"\(multi-label\) are not read"),
        ({"image": images(12), "label": ["a|b", "a", "b"] * 4}, None, r"\(multi-label\)"),
        ({"image": images(12), "label": [n + 1 for n in labels()]}, HF, "label 3 in row 2, and"),
        ({"image": images(12), "label": [f"a photo {n}" for n in range(12)]}, None, "captions"),
        ({"image": images(12), "label": [1] * 12}, HF, "only images of the class 'dog'"),
        ({"images": [images(2)] * 3, "label": [0, 1, 2]}, None, "no column of images"),
        ({"image": [[[0, 1], [2, 3]]] * 4, "label": [0, 1] * 2}, None, r"image \(list<"),
        (
            {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())},
            HF,
            "has no images: expected",
        ),
    ],
)
def test_wrong_files_are_named(tmp_path, columns, features, message):
    path = write(tmp_path / "x.parquet", columns, features)
    with pytest.raises(DataError, match=message):
        opened(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a Parquet file, or is damaged"),
        (b"PAR1" + bytes(50), "not a Parquet file, or is damaged"),
        (b"<html>404</html>", "not a Parquet file, or is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "type: git -C .* lfs pull"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "x.parquet")


def test_a_truncated_file_is_named(tmp_path):
    path = write(tmp_path / "x.parquet", {"image": images(12), "label": labels()})
    os.truncate(path, os.path.getsize(path) - 100)
    with pytest.raises(DataError, match="not a Parquet file, or is damaged"):
        opened(path)


def test_other_classes_in_another_file_are_an_error(tmp_path):
    write(tmp_path / "a.parquet", {"image": images(12), "label": labels()}, HF)
    other = {"label": class_label(["x", "y", "z"])}
    write(tmp_path / "b.parquet", {"image": images(12), "label": labels()}, other)
    with pytest.raises(DataError, match=r"b\.parquet has other names of classes than .*a\.parquet"):
        opened(tmp_path)


@pytest.mark.parametrize("reader", [load, load_table])
def test_names_of_pictures_are_a_table(tmp_path, reader):
    for n in range(12):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    split = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    columns = {
        "image": [f"{n}.png" for n in range(12)],
        "label": [KINDS[n] for n in labels()],
        "split": split,
    }
    path = write(tmp_path / "x.parquet", columns)
    dataset = reader(path, DataOptions())
    assert dataset.classes == tuple(KINDS)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [6, 3, 3]


def test_without_pyarrow_the_command_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", {"image": images(12), "label": labels()})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CnnforgeError, match=r"type: pip install 'cnnforge\[parquet\]'"):
        opened(path)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", {"image": images(12), "label": labels()})

    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet_file.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(DataError, match="No space left on device; free some space, or set XDG"):
        opened(path)


def test_the_copy_of_the_images_vanishes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write(tmp_path / "x.parquet", {"image": images(12), "label": labels()})
    dataset = opened(path)
    os.unlink(path)
    assert dataset.train.fetch(np.arange(3)).shape == (3, 5, 6, 3)
    assert os.listdir(tmp_path / "cache" / "cnnforge") == []


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UsageError, match="parquet needs a file"):
        load(None, DataOptions())
    with pytest.raises(UsageError, match=r"has no \.parquet files"):
        opened(tmp_path)
    with pytest.raises(UsageError, match="there is no file"):
        opened(tmp_path / "x.parquet")


def names_and_reasons(parts):
    """The names of the images of parts, and the reason of each that is missing."""
    for part in parts:
        found = list(pickle.loads(pickle.dumps(part.read))())
        assert len(found) == part.images
        for each in found:
            if isinstance(each, SkippedFile):
                yield each.path, each.reason
            elif isinstance(each, str):
                yield each, None
            else:
                assert pixels(each.open().getvalue()).shape == (5, 6, 3)
                yield each.path, None


def test_parts_have_the_images_of_the_dataset_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("cnnforge_plugins.datasets.parquet._MIN_PART", 5)
    cells = images(13)
    cells[4] = {"bytes": None, "path": "gone.png"}
    cells[5] = None
    cells[6] = {"bytes": None, "path": "near.png"}
    (tmp_path / "near.png").write_bytes(png(99))
    write(tmp_path / "a.parquet", {"image": cells}, row_group_size=2)
    write(tmp_path / "b.parquet", {"image": [png(n) for n in range(8)]}, row_group_size=8)
    name, parts, notes = in_parts(str(tmp_path))
    dataset = opened(tmp_path, "prediction")
    assert (name, notes) == (dataset.name, ())
    assert [part.images for part in parts] == [6, 6, 1, 8]
    found = list(names_and_reasons(parts))
    assert [path for path, reason in found if reason is None] == list(dataset.train.names)
    assert sorted(each for each in found if each[1] is not None) == list(dataset.skipped)


def test_parts_leave_out_the_test_split_as_the_dataset_does(tmp_path):
    columns = {"image": images(3), "thumbnail": images(3)}
    write(tmp_path / "train-0.parquet", columns)
    write(tmp_path / "test-0.parquet", {name: cells[:2] for name, cells in columns.items()})
    _, parts, notes = in_parts(str(tmp_path / "t*.parquet"))
    assert notes == opened(tmp_path / "t*.parquet", "prediction").notes
    assert notes == (
        "images are read from 'image', not from 'thumbnail'",
        "images of the test part that are left out: 2",
    )
    names = [path for path, _ in names_and_reasons(parts)]
    assert names == list(opened(tmp_path / "t*.parquet", "prediction").train.names)
    assert len(names) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": images(6), "label": [0, 1] * 3}, r"the images of .* have labels: .* leave out"),
        ({"image": images(2), "split": ["train", "test"]}, "has a column of splits: several"),
        ({"image": ["a.png", "b.png"]}, "has names of pictures: several workers"),
    ],
)
def test_files_that_are_not_predicted_in_parts(tmp_path, columns, message):
    path = write(tmp_path / "x.parquet", columns)
    with pytest.raises(UsageError, match=message):
        in_parts(path)
