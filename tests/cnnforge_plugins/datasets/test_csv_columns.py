"""Tables of pixels as people bring them: the roles of the columns, delimiters, messages."""

import gzip
import re

import numpy as np
import pytest

from cnnforge.data import DataOptions
from cnnforge.errors import DataError, UsageError
from cnnforge_plugins.datasets._pixel_columns import shape_of
from cnnforge_plugins.datasets.csv import load
from cnnforge_plugins.datasets.shared.labels import check_single_labels

ROWS = 30
LABELS = np.arange(ROWS) % 3
PIXELS = np.random.default_rng(0).integers(2, 100, (ROWS, 16)) + 50 * LABELS[:, None]
WORDS = np.array(["elk", "cat", "dog"])[LABELS]
IDS = np.arange(ROWS) * 7 + 300
NAMES = [f"pixel{number}" for number in range(16)]
GRID = [f"{row}x{column}" for row in range(1, 5) for column in range(1, 5)]


def table(header, *columns, delimiter=",", end="\n"):
    lines = [delimiter.join(header)] if header else []
    for row in range(ROWS):
        cells = [np.atleast_1d(column[row]) for column in columns]
        lines.append(delimiter.join(str(cell) for part in cells for cell in part))
    return end.join(lines) + end


def opened(tmp_path, content, purpose="training", **options):
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(str(path), DataOptions(purpose=purpose, **options))


def check(dataset, labels=LABELS):
    """Each image is that of its row, and has the label of its row."""
    part = dataset.train
    assert len(part) == ROWS
    np.testing.assert_array_equal(part.fetch(np.arange(ROWS)).reshape(ROWS, -1), PIXELS)
    if labels is None:
        assert not dataset.labelled
    else:
        assert [dataset.classes[label] for label in part.labels] == [str(own) for own in labels]


@pytest.mark.parametrize(
    ("header", "columns", "labels"),
    [
        (["id", "label", *NAMES], (IDS, LABELS, PIXELS), LABELS),
        ([*NAMES, "Category"], (PIXELS, WORDS), WORDS),
        (["", "label", *NAMES], (range(ROWS), LABELS, PIXELS), LABELS),
        (["Unnamed: 0", *GRID, "y"], (range(ROWS), PIXELS, WORDS), WORDS),
        ([*map(str, range(16)), "class"], (PIXELS, WORDS), WORDS),
        (["0", *map(str, range(1, 17))], (LABELS, PIXELS), LABELS),
        (list(map(str, range(17))), (PIXELS, LABELS), LABELS),
        (["shoe", *[f"x{n}" for n in range(16)]], (WORDS, PIXELS), WORDS),
        ([*[f"p_{n}" for n in range(1, 17)], "shoe"], (PIXELS, LABELS), LABELS),
        (["label", "age", *NAMES], (WORDS, IDS, PIXELS), WORDS),
        (["label", *NAMES], (LABELS + 10**18, PIXELS), LABELS + 10**18),
        (["file", "label", *NAMES], ([f"{n}.png" for n in IDS], WORDS, PIXELS), WORDS),
        (["class_id", "class name", *NAMES], (LABELS, WORDS, PIXELS), WORDS),
        ([*NAMES[:5], "Label", *NAMES[5:]], (PIXELS[:, :5], WORDS, PIXELS[:, 5:]), WORDS),
        ([], (PIXELS, WORDS), WORDS),
        ([], (WORDS, PIXELS), WORDS),
        ([], (PIXELS, LABELS), LABELS),
        ([], (np.sort(LABELS), PIXELS), np.sort(LABELS)),
        ([], (IDS, LABELS, PIXELS), LABELS),
        ([], (IDS, PIXELS, WORDS), WORDS),
    ],
)
def test_the_label_is_found_wherever_it_is(tmp_path, header, columns, labels):
    content = table(header, *columns)
    check(opened(tmp_path, content, "evaluation"), labels)
    dataset = opened(tmp_path, content)
    assert dataset.classes == tuple(sorted(set(map(str, labels))))
    assert len(dataset.train) + len(dataset.validation) == ROWS


@pytest.mark.parametrize(
    ("header", "columns", "ids"),
    [
        (NAMES, (PIXELS,), ("ImageId", range(1, ROWS + 1))),
        (GRID, (PIXELS,), ("ImageId", range(1, ROWS + 1))),
        (["", *map(str, range(16))], (range(ROWS), PIXELS), ("ImageId", range(1, ROWS + 1))),
        (["image_id", *NAMES], (IDS, PIXELS), ("image_id", IDS)),
        ([*NAMES, "code"], (PIXELS, [f"a{n}" for n in IDS]), ("code", [f"a{n}" for n in IDS])),
        ([], (PIXELS,), ("ImageId", range(1, ROWS + 1))),
        ([], (IDS, PIXELS), ("id", IDS)),
    ],
)
def test_rows_without_labels_are_for_prediction(tmp_path, header, columns, ids):
    content = table(header, *columns)
    dataset = opened(tmp_path, content, "prediction")
    check(dataset, None)
    assert (dataset.id_name, dataset.train.ids) == (ids[0], [str(own) for own in ids[1]])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text.replace(",", ";").replace("\n", "\r\n"),
        lambda text: text.replace(",", "\t").encode("utf-16"),
        lambda text: gzip.compress(text.encode()),
        lambda text: "sep=;\n" + text.replace(",", ";"),
        lambda text: text.replace(",", "|"),
        lambda text: text.replace("\n", ",\n"),
        lambda text: text + "," * 16 + "\n" + "\n\n",
        lambda text: re.sub(r"([^,\n]+)", r'"\1"', text),
        lambda text: re.sub(r",(\d+)\b", r",\1.0", text),
        lambda text: "# " + text,
    ],
)
def test_every_way_to_write_a_table_gives_the_same_images(tmp_path, change):
    header = ["label", *[f"px{letter}" for letter in "abcdefghijklmnop"]]
    check(opened(tmp_path, change(table(header, WORDS, PIXELS)), "evaluation"), WORDS)


def test_numbers_with_blanks_between_them_are_a_table(tmp_path):
    check(opened(tmp_path, table([], LABELS * 1.0, PIXELS, delimiter=" "), "evaluation"))


def test_the_pixels_may_be_in_one_cell(tmp_path):
    cells = [" ".join(map(str, row)) for row in PIXELS]
    content = table(["emotion", "pixels", "Usage"], LABELS, cells, ["Training"] * ROWS)
    dataset = opened(tmp_path, content, "evaluation")
    check(dataset)
    with pytest.raises(DataError, match="'pixels' has 15 pixels in a row and 16 in the first"):
        opened(tmp_path, content.replace(cells[-1], cells[-1].rpartition(" ")[0]))


def test_in_a_few_rows_without_names_the_first_column_may_have_all_labels_once(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16))
    # The last pixel has few values, as labels have.
    pixels[:, -1] = [7, 9, 7, 30, 9, 30, 7, 9, 30, 7]
    rows = np.column_stack([np.arange(10), pixels])
    content = "".join(",".join(map(str, row)) + "\n" for row in rows)
    dataset = opened(tmp_path, content, "evaluation")
    assert dataset.classes == tuple(map(str, range(10)))
    np.testing.assert_array_equal(dataset.train.fetch(np.arange(10)).reshape(10, -1), pixels)


def test_a_cell_may_have_the_pixels_of_a_large_image(tmp_path):
    cell = " ".join(["100"] * 224 * 224)
    content = "label,pixels\n" + "".join(f"{label},{cell}\n" for label in "abab")
    assert opened(tmp_path, content).image_shape == (224, 224, 1)


@pytest.mark.parametrize("content", [";;;\n;;;\n", '""\n', '"",""\n\n'])
def test_a_file_of_empty_cells_is_an_error(tmp_path, content):
    with pytest.raises(DataError, match="has only empty cells"):
        opened(tmp_path, content)


def test_the_splits_of_fer_are_used(tmp_path):
    cells = [" ".join(map(str, row)) for row in PIXELS]
    usage = ["Training"] * 18 + ["PublicTest"] * 6 + ["PrivateTest"] * 6
    content = table(["emotion", "pixels", "Usage"], LABELS, cells, usage)
    dataset = opened(tmp_path, content)
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [18, 6, 6]
    np.testing.assert_array_equal(
        dataset.test.fetch(np.arange(6)).reshape(6, -1), PIXELS[24:].astype(np.uint8)
    )
    assert len(opened(tmp_path, content, "evaluation").train) == 24
    check(opened(tmp_path, content, "prediction"))
    assert any(
        "'Usage' gives 18 images for training, 6 for validation, 6 for a test at the end" in note
        for note in dataset.notes
    )


@pytest.mark.parametrize(
    "labels",
    [
        ["cat|dog", "cat", "dog"],
        ["cat;dog", "cat", "dog"],
        ["a,b", "b,c", "a,c", "a,b,c"],
        ["['cat', 'dog']", "['cat']", "['elk']"],
        ["16 0", "7", "2"],
        ["x", "y", "z", "x y", "x z", "y z", "x y z", "z y"],
    ],
)
def test_several_labels_an_image_are_refused_by_name(labels):
    with pytest.raises(DataError, match=r"several classes.*\(multi-label\) are not read"):
        check_single_labels("x.csv", labels)


@pytest.mark.parametrize(
    "labels",
    [
        ["hot dog", "ice cream", "dog"],
        ["salt, coarse", "salt, fine", "pepper"],
        ["red car", "blue car", "red van", "blue van"],
        ["1", "2", "30"],
        ["n01440764", "n01443537"],
    ],
)
def test_names_of_several_words_are_classes(labels):
    check_single_labels("x.csv", labels)


def test_a_table_of_pixels_with_several_labels_is_refused(tmp_path):
    words = np.array(["cat|dog", "cat", "dog"])[LABELS]
    content = table(["label", *NAMES], words, PIXELS)
    with pytest.raises(DataError, match=r"x.csv: 'label' has several classes.*'cat\|dog'"):
        opened(tmp_path, content)


def test_words_with_a_comma_and_rows_that_are_too_long(tmp_path):
    words = np.array(['"cat, black"', "dog", "elk"])[LABELS]
    dataset = opened(tmp_path, table(["label", *NAMES], words, PIXELS), "evaluation")
    check(dataset, [word.strip('"') for word in words])
    content = table(["label", *NAMES], WORDS, PIXELS) + "cat" + ",1" * 17 + "\n"
    with pytest.raises(DataError, match=f"line {ROWS + 2}: 18 columns, expected 17"):
        opened(tmp_path, content)


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (["id", *NAMES], (IDS, PIXELS), "no column of labels, only the id 'id' and 16 columns"),
        (["label", *NAMES], (IDS, PIXELS), "'label' was taken for the labels.*30 different values"),
        (
            ["target", *NAMES],
            (LABELS + np.arange(ROWS) / 100, PIXELS),
            "'target' was taken for the labels.*these are measured values",
        ),
        (
            ["label", "category", *NAMES],
            (LABELS, np.arange(ROWS) // 15, PIXELS),
            "'label', 'category' may each be the label",
        ),
        (["label", *NAMES], (LABELS, PIXELS / 255), r"line 2, column 2 \('pixel0'\).*multiply"),
        (["label", *NAMES], (LABELS, PIXELS / 127.5 - 1), "from -1 to 1, add 1"),
        (["label", *NAMES], (LABELS, PIXELS * 257), "is not in 0..255; divide 16-bit values"),
    ],
)
def test_the_message_names_the_column_and_the_fix(tmp_path, header, columns, message):
    with pytest.raises(DataError, match=message) as raised:
        opened(tmp_path, table(header, *columns))
    assert "\n" not in str(raised.value)
    assert "validation" not in str(raised.value)


def test_a_size_that_is_unknown_is_not_answered_with_an_option_of_another_command(tmp_path):
    content = table(["label", *NAMES[:14]], LABELS, PIXELS[:, :14])
    with pytest.raises(UsageError, match=r"the label 'label' and 14 pixels.*--image-size"):
        opened(tmp_path, content)
    with pytest.raises(
        UsageError, match=r"14 pixels in a row.*not an image of 4 x 4 either"
    ) as raised:
        opened(tmp_path, content, "prediction", image_size=(4, 4))
    assert "--" not in str(raised.value)


def test_empty_labels_are_counted_and_not_needed_for_prediction(tmp_path):
    content = table(["label", *NAMES], np.where(LABELS == 1, "", WORDS), PIXELS)
    with pytest.raises(DataError, match=r"'label', the label, is empty in 10 of 30 rows.*row 2"):
        opened(tmp_path, content)
    check(opened(tmp_path, content, "prediction"), None)


def test_one_row_of_one_class_is_enough_for_use(tmp_path):
    content = "label," + ",".join(NAMES) + "\ncat" + ",5" * 16 + "\n"
    for purpose in ("evaluation", "prediction"):
        dataset = opened(tmp_path, content, purpose)
        assert (dataset.classes, len(dataset.train)) == (("cat",), 1)
    with pytest.raises(DataError, match="images of the class 'cat'"):
        opened(tmp_path, content)


@pytest.mark.parametrize("labels", [("cat", "dog", "elk"), ("cat", "cat", "cat")])
def test_a_few_rows_of_a_column_with_another_name_are_evaluated(tmp_path, labels):
    content = "\n".join([f"shoe,{','.join(NAMES)}", *[f"{own}{',5' * 16}" for own in labels]])
    dataset = opened(tmp_path, content, "evaluation")
    assert [dataset.classes[label] for label in dataset.train.labels] == list(labels)


def test_black_images_and_what_is_not_text_are_said(tmp_path):
    dataset = opened(tmp_path, table(["label", *NAMES], LABELS, PIXELS % 2))
    assert any("all pixels are 0 or 1" in note for note in dataset.notes)
    with pytest.raises(DataError, match="is a zip archive"):
        opened(tmp_path, b"PK\x03\x04abc")
    content = table(["label", *NAMES], WORDS, PIXELS).replace("elk", "k\xe4fer").encode("latin-1")
    with pytest.raises(DataError, match=r"not text in UTF-8.*iconv -f WINDOWS-1252"):
        opened(tmp_path, content)


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("header", [["label", *NAMES], ["Klasse", *NAMES]])
def test_a_decimal_comma_is_not_the_name_of_a_picture(tmp_path, header, delimiter):
    german = np.array([[f"{value},00" for value in row] for row in PIXELS])
    text = table(header, WORDS, german, delimiter=delimiter)
    with pytest.raises(DataError, match=r"decimal comma, such as '\d+,00': .* type: tr , \. < "):
        opened(tmp_path, text)
    assert opened(tmp_path, text.replace(",", ".")).classes == ("cat", "dog", "elk")


def test_the_name_of_the_data_can_be_shown(tmp_path):
    folder = tmp_path / "line\nbreak"
    folder.mkdir()
    dataset = opened(folder, table(["label", *NAMES], LABELS, PIXELS))
    assert dataset.name.endswith("line\\nbreak/x.csv")


@pytest.mark.parametrize("count", [-1, 0, 2, 5])
def test_no_image_has_this_number_of_values(count):
    # A table without columns of pixels gives -1, if its last one is taken for an id.
    assert shape_of(count, None) is None
