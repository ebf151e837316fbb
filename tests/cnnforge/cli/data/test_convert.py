"""`cnnforge data convert`: what is written can be opened, and nothing is ever lost."""

import errno
import hashlib
import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pictures import photo, write_classes

from cnnforge.cli import main
from cnnforge.data import ArraySamples, DataOptions, Dataset, Split, open_dataset
from cnnforge.data.writers import files
from cnnforge.data.writers.convert import FORMATS, convert
from cnnforge.data.writers.items import Items, UniqueNames
from cnnforge.plugin_host.discovery import discover

FILES = ("images", "table", "parquet", "tar")
ARRAYS = ("idx", "npz")


def opened(reference: str) -> Dataset:
    options = DataOptions(purpose="inspection")
    return open_dataset(reference, discover().datasets, options)


def content(dataset: Dataset) -> Counter[tuple[str, str, bytes]]:
    """Count the samples by class, split and digest of the file."""
    assert dataset.splits is not None
    assert dataset.inspection is not None
    labels, _, digests = dataset.splits[0]
    splits = dataset.inspection.splits
    return Counter(
        (dataset.classes[int(label)], split, digest)
        for label, split, digest in zip(labels, splits, digests, strict=True)
    )


def target_of(kind: str, folder: Path) -> str:
    return f"{kind}:{folder / 'out'}{FORMATS[kind].suffix}"


def reference_of(kind: str, folder: Path) -> str:
    inner = FORMATS[kind].inner
    return target_of(kind, folder) + (f"/{inner}" if inner else "")


def needs(kind: str) -> None:
    """Skip a test if the package or the dataset for a format is missing."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    if kind not in discover().datasets:
        pytest.skip(f"there is no dataset {kind}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three splits with two classes; two files of a class have the same name."""
    for number, split in enumerate(("train", "val", "test")):
        write_classes(tmp_path / "data" / split, {"cat": 3, "кошка, 2": 2}, 300 * number)
    (tmp_path / "data/train/cat/inner").mkdir()
    photo(77).save(tmp_path / "data/train/cat/inner/0.png")
    photo(78).save(tmp_path / "data/train/cat/b.c.JPG")
    return tmp_path / "data"


@pytest.mark.parametrize("kind", FILES)
def test_files_are_copied_unchanged(kind, data, tmp_path, capsys):
    needs(kind)
    assert main(["data", "convert", str(data), target_of(kind, tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "written: 17 images in 2 classes",
        f"train on them with: cnnforge train --data {reference_of(kind, tmp_path)}",
    ]
    before, after = opened(str(data)), opened(reference_of(kind, tmp_path))
    assert content(after) == content(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


@pytest.mark.parametrize("kind", FILES)
def test_data_without_splits(kind, tmp_path):
    needs(kind)
    data = write_classes(tmp_path / "data", {"10": 2, "9": 3})
    assert main(["data", "convert", str(data), target_of(kind, tmp_path)]) == 0
    after = opened(reference_of(kind, tmp_path))
    assert content(after) == content(opened(str(data)))
    # The bare folder is recognised.
    assert opened(str(tmp_path / "out")).name == after.name


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_arrays_hold_the_pixels(kind, mode, data, tmp_path, capsys):
    needs(kind)
    for path in sorted(data.rglob("*.png")):
        photo(0).convert(mode).save(path)
    (data / "train/cat/b.c.JPG").unlink()
    assert main(["data", "convert", str(data), target_of(kind, tmp_path)]) == 0
    before, after = opened(str(data)), opened(reference_of(kind, tmp_path))
    rows = np.arange(16)
    assert after.image_shape == (15, 20, 1 if mode == "L" else 3)
    assert np.array_equal(after.train.fetch(rows), before.train.fetch(rows))
    assert after.train.labels.tolist() == before.train.labels.tolist()
    assert after.inspection.splits == before.inspection.splits
    assert after.classes == (("0", "1") if kind == "idx" else before.classes)
    errors = capsys.readouterr().err
    assert ("classnames.txt has one name in a line" in errors) == (kind == "idx")


def test_resized_images_are_said(data, tmp_path, capsys):
    photo(5, (50, 40)).save(data / "train/cat/large.png")
    target = tmp_path / "out.npz"
    assert main(["data", "convert", str(data), str(target), "--image-size", "8x6"]) == 0
    assert "18 of 18 images are resized to 8x6, because npz holds" in capsys.readouterr().err
    with np.load(target) as arrays:
        assert arrays["x_train"].shape == (8, 8, 6, 3)
        assert arrays["class_names"].tolist() == ["cat", "кошка, 2"]


def test_an_idx_folder_keeps_numbers(tmp_path):
    needs("idx")
    data = write_classes(tmp_path / "data", {"3": 2, "7": 3})
    assert main(["data", "convert", str(data), f"idx:{tmp_path / 'out'}"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "train-images-idx4-ubyte",
        "train-labels-idx1-ubyte",
    ]
    assert opened(f"idx:{tmp_path / 'out'}").classes == ("3", "7")


def test_arrays_become_png_files(tmp_path):
    target = tmp_path / "digits"
    assert main(["data", "convert", "mnist5k", str(target)]) == 0
    assert len(list((target / "7").iterdir())) == 500
    before, after = opened("mnist5k"), opened(f"images:{target}")
    digests = [hashlib.sha256(image).digest() for image in after.train.fetch(np.arange(5000))]
    assert sorted(digests) == sorted(before.splits[0].digests)


@pytest.mark.parametrize("kind", ["tar", "parquet", "npz", "table", "idx"])
def test_equal_data_give_equal_files(kind, data, tmp_path):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    digests = []
    for name in ("one", "two"):
        suffix = FORMATS[kind].suffix
        assert main(["data", "convert", str(data), f"{kind}:{tmp_path / name}{suffix}"]) == 0
        top = tmp_path / f"{name}{suffix}"
        paths = [top] if suffix else sorted(path for path in top.rglob("*") if path.is_file())
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]


def test_a_tar_has_the_form_of_webdataset(data, tmp_path):
    assert main(["data", "convert", str(data), f"tar:{tmp_path / 'out'}"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "classnames.txt",
        "test-000000.tar",
        "train-000000.tar",
        "validation-000000.tar",
    ]
    with tarfile.open(tmp_path / "out" / "test-000000.tar") as archive:
        names = archive.getnames()
        labels = [archive.extractfile(name).read() for name in names if name.endswith(".cls")]
    assert names[:2] == ["000000-0.png", "000000-0.cls"]
    assert labels == [b"0", b"0", b"0", b"1", b"1"]


def test_parquet_has_the_form_of_hugging_face(data, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert main(["data", "convert", str(data), f"parquet:{tmp_path / 'out'}"]) == 0
    table = parquet.read_table(tmp_path / "out" / "validation-00000-of-00001.parquet")
    rows = table.to_pylist()
    assert [row["label"] for row in rows] == [0, 0, 0, 1, 1]
    assert rows[0]["image"]["path"] == "0.png"
    assert rows[0]["image"]["bytes"] == (data / "val/cat/0.png").read_bytes()
    assert b'"names": ["cat"' in table.schema.metadata[b"huggingface"]


def test_parquet_needs_pyarrow(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert main(["data", "convert", str(data), f"parquet:{tmp_path / 'out'}"]) == 1
    assert "pip install 'cnnforge[parquet]'" in capsys.readouterr().err


def test_unreadable_files_are_left_out(data, tmp_path, capsys):
    (data / "train/cat/empty.png").touch()
    assert main(["data", "convert", str(data), str(tmp_path / "out")]) == 0
    assert "1 file that cannot be read left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("data", 2, "is not empty"),
        ("data/train/cat/0.png", 2, "exists, and is not overwritten"),
        ("missing/out", 2, "there is no folder"),
        ("out.csv", 2, "is written as a folder: name it with its format"),
        ("npz:out", 2, "give a name that ends in .npz"),
        ("zip:out", 2, "cannot write the format 'zip': use one of images, table"),
        ("table:", 2, "there is no path"),
    ],
)
def test_wrong_targets(target, code, message, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(data.rglob("*"))
    assert main(["data", "convert", str(data), target]) == code
    assert message in capsys.readouterr().err
    assert sorted(data.rglob("*")) == before
    assert list(tmp_path.iterdir()) == [data]


def test_options_of_pixels_are_refused_for_files(data, tmp_path, capsys):
    command = ["data", "convert", str(data), str(tmp_path / "out"), "--image-size", "8"]
    assert main(command) == 2
    assert "--image-size and --color are for idx and npz" in capsys.readouterr().err


def test_an_empty_folder_is_a_target(data, tmp_path):
    (tmp_path / "out").mkdir()
    assert main(["data", "convert", str(data), str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "no space left on device"), (errno.EROFS, "read-only file system")],
)
def test_a_failure_leaves_nothing(code, message, data, tmp_path, capsys, monkeypatch):
    written = []
    write = Path.write_bytes

    def failing(path: Path, content: bytes) -> int:
        if len(written) == 3:
            raise OSError(code, os.strerror(code))
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", failing)
    assert main(["data", "convert", str(data), str(tmp_path / "out")]) == 1
    assert f"{message}; nothing was written there" in capsys.readouterr().err.lower()
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize("class_name", ["a/b", ".hidden", "x" * 256])
def test_classes_that_a_folder_cannot_hold(class_name, tmp_path, capsys):
    rows = ["file,label\n"]
    for number, name in enumerate([class_name, class_name, "c", "c"]):
        photo(number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{name}\n")
    (tmp_path / "table.csv").write_text("".join(rows))
    assert main(["data", "convert", str(tmp_path / "table.csv"), str(tmp_path / "out")]) == 1
    assert f"the class {class_name!r} cannot be the name of a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_classes_that_would_be_read_as_splits(tmp_path, capsys):
    rows = ["file,label\n"]
    for number, name in enumerate(["train", "train", "test", "test"]):
        photo(number).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{name}\n")
    (tmp_path / "table.csv").write_text("".join(rows))
    reference = str(tmp_path / "table.csv")
    assert main(["data", "convert", reference, str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()
    assert main(["data", "convert", reference, f"npz:{tmp_path / 'out.npz'}"]) == 0


def test_a_writer_that_loses_a_sample_is_found(data, tmp_path, capsys, monkeypatch):
    def write(items, folder: Path) -> None:
        items.items.pop(0)
        files.write_folder(items, folder)
        items.__post_init__()

    broken = FORMATS["images"]._replace(write=write)
    monkeypatch.setitem(FORMATS, "images", broken)
    assert main(["data", "convert", str(data), str(tmp_path / "out")]) == 1
    assert "images would be read with other classes or splits" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [data]


def test_names_of_samples_that_a_file_cannot_have(tmp_path):
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    names = [".hidden", "a/b/..", "ä" * 300, "x\ny"]
    samples = ArraySamples(images, np.zeros(4), names)
    splits = Split(samples.labels, names, [image.tobytes() for image in images])
    dataset = Dataset("made", ("one",), samples, samples, "0", splits=(splits, splits))
    files.write_folder(Items(dataset), tmp_path)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "_..png",
        "_hidden.png",
        "x\\ny.png",
        "ä" * 100 + ".png",
    ]


def test_names_of_files_are_unique_in_any_case():
    names = UniqueNames()
    made = [names.make(stem, ".png") for stem in ("a", "A", "a", "b", "a-2", "a")]
    assert made == ["a.png", "A-2.png", "a-3.png", "b.png", "a-2-2.png", "a-4.png"]
    assert len({name.casefold() for name in made}) == len(made)


def test_the_function_for_python(data, tmp_path):
    from cnnforge.data.writers.convert import parse_target

    target = parse_target(str(tmp_path / "out.npz"))
    assert convert(opened(str(data)), target, discover().datasets) == ()
    assert target.reference == f"npz:{tmp_path / 'out.npz'}"
