import pytest

from cnnforge.data import SkippedFile
from cnnforge.data.findings import (
    appearance_notes,
    class_name_notes,
    count_note,
    left_out_notes,
    other_files,
    skipped_summary,
)
from cnnforge.data.images import CheckedImage


def skipped(*reasons):
    return [SkippedFile(f"{number}.png", reason) for number, reason in enumerate(reasons)]


def test_the_same_cause_is_counted_once():
    files = skipped(
        "damaged: truncated at 7",
        "empty file",
        "damaged: bad checksum",
        "empty file",
        "damaged: no pixels",
    )
    assert skipped_summary(files) == "3 files: damaged: truncated at 7, 2 files: empty file"
    assert skipped_summary(skipped("empty file")) == "1 file: empty file"
    assert skipped_summary([]) == ""
    assert skipped_summary(skipped(*"abcdefg")).endswith(", 2 files for other reasons")


def test_other_files_are_counted_by_ending():
    assert other_files({".txt": 1, ".xml": 10, "": 2}) == "10 .xml, 2 without ending, 1 .txt"
    many = {f".{letter}": 1 for letter in "abcdefg"}
    assert other_files(many) == "1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 2 others"
    assert "\n" not in other_files({".t\nxt": 1})


def test_each_finding_has_a_note_with_its_count_and_first_image():
    plain = CheckedImage((2, 2), True, b"")
    images = [("a", plain), ("b\n", plain._replace(dark=True)), ("c", plain._replace(dark=True))]
    assert appearance_notes(images) == (r"2 of 3 images are nearly black; the first is b\n",)
    assert appearance_notes([("a", plain)]) == ()
    for name in ("one_color", "on_black", "narrow"):
        (note,) = appearance_notes([("a", plain._replace(**{name: True}))])
        assert note.startswith("1 of 1 images ")
        assert note.endswith("; the first is a")
    assert count_note([], 3, "images") == ()


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("cat", "dog"), ()),
        (("train", "bus"), ("unusual for a class: 'train'",)),
        (("Testing", "images", "cat"), ("unusual for a class: 'Testing', 'images'",)),
        (("Cat", "cat", "dog"), ("'Cat', 'cat' are 2 classes whose names look alike",)),
        (("cat", r"cat\x20"), (r"'cat', 'cat\x20' are 2 classes whose names look alike",)),
        (("labels", "LABELS"), ("unusual for a class: ", "'labels', 'LABELS' are 2 classes")),
    ],
)
def test_names_that_are_probably_a_mistake_are_noted(classes, expected):
    notes = class_name_notes(classes)
    assert len(notes) == len(expected)
    for note, start in zip(notes, expected, strict=True):
        assert note.startswith(start)


def test_what_is_not_data_is_noted_once():
    assert left_out_notes({}, []) == ()
    runs = [f"runs/{number}" for number in range(7)]
    notes = left_out_notes({".xml": 2}, runs)
    assert notes[0] == "files that are not pictures are left out: 2 .xml"
    assert notes[1].endswith("left out: runs/0, runs/1, runs/2, runs/3, runs/4 and 2 more")
