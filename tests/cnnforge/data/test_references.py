import numpy as np
import pytest

from cnnforge.data import ArraySamples, DataOptions, Dataset
from cnnforge.data.references import open_dataset, parse
from cnnforge.errors import AmbiguousNameError, DataError, UnknownNameError, UsageError
from cnnforge.plugin import DatasetSpec
from cnnforge.plugin_host.registry import Registry


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cats").mkdir()
    (tmp_path / "digits.csv").touch()
    (tmp_path / "LOUD.CSV").touch()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("mnist5k", ("mnist5k", None)),
        ("acme/mnist5k", ("acme/mnist5k", None)),
        ("images:photos", ("images", "photos")),
        ("images:not/there", ("images", "not/there")),
        ("acme-x/images:a:b", ("acme-x/images", "a:b")),
        ("csv:notes.txt", ("csv", "notes.txt")),
        ("photos", ("images", "photos")),
        ("./photos", ("images", "photos")),
        ("data/cats", ("images", "data/cats")),
        ("digits.csv", ("csv", "digits.csv")),
        ("LOUD.CSV", ("csv", "LOUD.CSV")),
        ("unheard_of", ("unheard_of", None)),
    ],
)
def test_parse(here, reference, expected):
    assert parse(reference, known=("mnist5k", "acme/mnist5k")) == expected


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("x.npz", "npz"),
        ("x.PARQUET", "parquet"),
        ("x.tar", "tar"),
        ("x.tsv", "csv"),
        ("train-images-idx3-ubyte", "idx"),
        ("train-images-idx3-ubyte.gz", "idx"),
    ],
)
def test_the_ending_of_a_file_says_what_it_is(here, file, kind):
    (here / file).touch()
    assert parse(file) == (kind, file)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["a/x/1.png", "a/y/2.png"], "images"),
        (["a/x/1.png", "a/x.tar", "a/x.parquet"], "images"),
        (["a/train-images-idx3-ubyte.gz", "a/LICENSE"], "idx"),
        (["a/raw/train-images-idx3-ubyte"], "idx"),
        (["a/data/train-0.parquet", "a/README.md"], "parquet"),
        (["a/train/0000.parquet"], "parquet"),
        (["a/0.tar", "a/1.tar"], "tar"),
        (["a/notes.txt"], "images"),
        (["a/.cache/x.tar"], "images"),
    ],
)
def test_the_files_in_a_folder_say_what_it_is(here, files, kind):
    for file in files:
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        (here / file).touch()
    assert parse("a") == (kind, "a")


@pytest.mark.parametrize("name", ["train-{000..015}.tar", "shards/*.tar", "data/*.parquet"])
def test_a_pattern_names_several_files(here, name):
    assert parse(name) == (name.rpartition(".")[2], name)


def test_one_array_is_not_a_dataset(here):
    (here / "x.npy").touch()
    with pytest.raises(UsageError, match=r"x\.npy is one array: save images and labels"):
        parse("x.npy")


def test_a_home_folder_is_expanded(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert parse("~/photos") == ("images", str(here / "photos"))


def test_a_known_name_wins_over_a_folder_of_the_same_name(here):
    assert parse("photos", known=("photos",)) == ("photos", None)
    assert parse("./photos", known=("photos",)) == ("images", "photos")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "give a folder of images"),
        ("  ", "give a folder of images"),
        ("images:", "no argument after the colon"),
        ("missing.csv", "there is no folder or file missing.csv"),
        ("missing/folder", "there is no folder or file missing/folder"),
        ("./missing", "there is no folder or file missing"),
        ("notes.txt", "is a file whose ending is not known: give"),
        ("C:\\photos", "there is no folder or file"),
    ],
)
def test_parse_says_what_is_wrong(here, reference, message):
    with pytest.raises(UsageError, match=message.replace(".", r"\.")) as raised:
        parse(reference)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("photos.ZIP", "unzip photos.ZIP -d photos"),
        ("my photos.tgz", "mkdir 'my photos' && tar -xf 'my photos.tgz' -C 'my photos'"),
        ("v1.tar.xz", "mkdir v1 && tar -xf v1.tar.xz -C v1"),
        ("photos.7z", "7z x photos.7z -ophotos"),
        ("photos.rar", "unrar x photos.rar photos/"),
        ("train.csv.gz", "gunzip -k train.csv.gz"),
        ("cat.jpg", "cnnforge predict latest cat.jpg"),
    ],
)
def test_a_file_that_is_not_data_is_answered_with_the_command_to_type(
    tmp_path, monkeypatch, name, command
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(UsageError) as raised:
        parse(name)
    assert str(raised.value).endswith(f" type: {command}")
    assert f"csv:{name}" not in str(raised.value)


def test_only_a_text_file_may_be_a_table(here):
    with pytest.raises(
        UsageError, match=r"if it is a table with commas, name it as csv:notes\.txt"
    ):
        parse("notes.txt")
    (here / "book.xlsx").touch()
    with pytest.raises(UsageError, match="whose ending is not known") as raised:
        parse("book.xlsx")
    assert "csv:book" not in str(raised.value)


@pytest.mark.parametrize("url", ["https://example.com/a/b.zip", "http://example.com/x?y=1&z=2"])
def test_a_url_is_downloaded_first(url):
    with pytest.raises(UsageError, match=r"is a URL, .*; type: curl -LO .*example"):
        parse(url)


def test_a_url_that_curl_cannot_read_has_no_command():
    with pytest.raises(UsageError, match="is a URL") as raised:
        parse("s3://bucket/photos")
    assert "type:" not in str(raised.value)


def test_a_similar_path_is_suggested(here, datasets):
    with pytest.raises(UsageError, match=r"did you mean 'data/cats'\?"):
        parse("data/cat")
    with pytest.raises(UsageError, match=r"did you mean 'digits\.csv'\?"):
        parse("digit.csv")
    with pytest.raises(
        UnknownNameError, match=r"nor is there .* 'digit_csv'; did you mean 'digits"
    ):
        open_dataset("digit_csv", datasets)


def returns_a_dataset(argument, options):
    samples = ArraySamples(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1]), ["x", "y"])
    return Dataset(f"{argument} {options.seed}", ("a", "b"), samples, samples, "")


def returns_nothing(argument, options):
    return None


@pytest.fixture
def datasets(monkeypatch):
    module = type("module", (), {})()
    module.good, module.bad = returns_a_dataset, returns_nothing
    monkeypatch.setitem(__import__("sys").modules, "reference_targets", module)
    registry = Registry(DatasetSpec)
    good = {"target": "reference_targets:good", "summary": "x"}
    registry.add("one", [DatasetSpec(name="photos", **good), DatasetSpec(name="twice", **good)])
    bad = DatasetSpec(name="bad", target="reference_targets:bad", summary="x")
    registry.add("two", [bad, DatasetSpec(name="twice", **good)])
    return registry


def test_open_dataset_hands_over_argument_and_options(here, datasets):
    assert open_dataset("photos:x/y", datasets, DataOptions(seed=7)).name == "x/y 7"
    assert open_dataset("one/photos", datasets).name == "None 0"


def test_open_dataset_refuses_what_is_not_a_dataset(datasets):
    with pytest.raises(DataError, match=r"'two/bad' returned a NoneType"):
        open_dataset("bad", datasets)


def test_open_dataset_says_that_a_name_is_unknown_or_ambiguous(here, datasets):
    with pytest.raises(UnknownNameError, match=r"did you mean.*nor is there a folder or file"):
        open_dataset("photo", datasets)
    with pytest.raises(UnknownNameError, match="did you mean 'photos'") as raised:
        open_dataset("photo:x", datasets)
    assert "folder" not in str(raised.value)
    with pytest.raises(AmbiguousNameError, match="one/twice or two/twice"):
        open_dataset("twice", datasets)
