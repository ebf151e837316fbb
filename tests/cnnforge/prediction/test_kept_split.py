"""A run knows the images that it was trained on, whatever becomes of the data."""

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnnforge.data import ArraySamples, DataOptions, Dataset, Split, dataset_from_arrays
from cnnforge.errors import RunError
from cnnforge.plugin_host.discovery import discover
from cnnforge.prediction import KeptSplit, RunData, SampleInputs, open_samples
from cnnforge.runs import RunDirectory

SHAPE = (2, 2, 1)


def split(*samples: tuple[str, int]) -> Split:
    """Names, and a number for each image."""
    digests = [hashlib.sha256(bytes([number])).digest() for _, number in samples]
    return Split(np.zeros(len(samples), np.int32), [name for name, _ in samples], digests)


RUN = KeptSplit.of((split(("a", 1), ("b", 2), ("c", 3)), split(("d", 4), ("e", 5))))


@pytest.mark.parametrize(
    ("samples", "trained", "kept", "gone"),
    [
        ([("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)], "TTT  ", "   KK", 0),
        # Names mean nothing: these are all renamed, and some are new.
        ([("x/1", 5), ("x/2", 1), ("x/3", 9), ("x/4", 4)], " T  ", "K  K", 0),
        ([("d", 1), ("a", 4)], "T ", " K", 1),
        # Copies of a training image were trained on, too.
        ([("z", 2), ("y", 2)], "TT", "  ", 2),
    ],
)
def test_images_are_found_by_content(samples, trained, kept, gone) -> None:
    origin = RUN.find(split(*samples))
    assert ["T" if value else " " for value in origin.trained] == list(trained)
    assert ["K" if value else " " for value in origin.kept] == list(kept)
    assert origin.gone == gone


def test_copies_that_were_left_out_are_found_by_name() -> None:
    dropped = split(("copy", 4), ("again", 1), ("wrong", 6))
    run = KeptSplit.of((split(("a", 1), ("b", 2)), split(("d", 4))), dropped)
    names = [("a", 1), ("d", 4), ("copy", 4), ("again", 1), ("wrong", 6), ("new", 4)]
    origin = run.find(split(*names))
    assert origin.trained.tolist() == [True, False, False, True, False, False]
    assert origin.kept.tolist() == [False, True, False, False, False, True]
    assert origin.dropped.tolist() == [False, False, True, False, True, False]
    text = run.differences(KeptSplit.of((split(("a", 1), ("b", 2)), split(("d", 4)))))
    assert "3 images were removed" in text


def test_a_validation_image_that_is_a_copy_stays_one() -> None:
    run = KeptSplit.of((split(("a", 1), ("b", 2)), split(("copy", 1), ("d", 4))))
    origin = run.find(split(("a", 1), ("b", 2), ("copy", 1), ("d", 4)))
    assert origin.kept.tolist() == [False, False, True, True]
    assert origin.trained.tolist() == [True, True, False, False]
    assert origin.copies.tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("training", "validation", "text"),
    [
        ([("a", 1), ("b", 2), ("c", 3)], [("d", 4)], "1 image was removed (e)"),
        ([("a", 1), ("b", 2), ("x", 3)], [("d", 4), ("e", 5)], "renamed (c is now x)"),
        ([("a", 1), ("b", 7), ("c", 3)], [("d", 4), ("e", 5)], "1 image was changed (b)"),
        (
            [("a", 1), ("b", 2), ("c", 3), *((f"n{k}", 10 + k) for k in range(4))],
            [("d", 4), ("e", 5)],
            "4 images were added (n0, n1, n2, ...)",
        ),
        ([("a", 1), ("b", 2), ("c", 3)], [("d", 4), ("e", 5)], "their labels are not"),
    ],
)
def test_differences_are_named(training, validation, text) -> None:
    assert text in RUN.differences(KeptSplit.of((split(*training), split(*validation))))


def test_it_is_written_and_read(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert KeptSplit.read(run) is None
    RUN.write(run)
    read = KeptSplit.read(run)
    assert read is not None
    assert (read.training, read.validation) == (RUN.training, RUN.validation)
    (tmp_path / "split.csv").write_text("split,file,sha256\nmine,a,00\n")
    with pytest.raises(RunError, match=r"split.csv is damaged \('mine'\)"):
        KeptSplit.read(run)


def test_a_table_that_python_cannot_read_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("split,file,sha256\ntraining," + "a" * 200 + ",00\n")
    limit = csv.field_size_limit(100)
    try:
        with pytest.raises(RunError, match=r"split.csv is damaged \(field larger"):
            KeptSplit.read(RunDirectory(tmp_path))
    finally:
        csv.field_size_limit(limit)


def opened(
    monkeypatch,
    numbers,
    *,
    labelled=True,
    need_labels=True,
    reference="other",
    kept=RUN,
    tests=None,
):
    """Open images with these numbers, of which 1 to 3 were trained on and 4 and 5 kept."""
    images = np.zeros((len(numbers), *SHAPE), np.uint8)
    pairs = [each if isinstance(each, tuple) else (f"{each}.png", each) for each in numbers]
    names = [name for name, _ in pairs]
    samples = ArraySamples(images, np.zeros(len(numbers), int), names)
    splits = split(*pairs), split()
    empty = ArraySamples(images[:0], samples.labels[:0], ())
    dataset = Dataset(
        reference, ("a",) if labelled else (), samples, empty, "", labelled=labelled, splits=splits
    )
    if tests:
        few = ArraySamples(images[:tests], samples.labels[:tests], names[:tests])
        dataset = replace(dataset, test=few)
    monkeypatch.setattr("cnnforge.prediction.samples.open_dataset", lambda *arguments: dataset)
    run = RunData("mine", 0.2, 0, "", split=kept)
    return open_samples(reference, SHAPE, discover().datasets, run, need_labels=need_labels)


def chosen(inputs: SampleInputs) -> list[int]:
    return [int(str(inputs.samples.names[i]).split(".")[0]) for i in inputs.indices]


def test_what_was_trained_on_is_left_out_and_said(monkeypatch) -> None:
    inputs = opened(monkeypatch, [1, 2, 3, 4, 5, 10, 9])
    assert chosen(inputs) == [4, 5, 10, 9]
    assert inputs.what == "the validation part of other"
    assert inputs.notes == (
        "3 of 7 images are left out: the model was trained on them",
        "2 of 4 images are new since the training of the run",
    )


def test_copies_of_training_images_and_a_test_part_are_said(monkeypatch) -> None:
    kept = KeptSplit.of((split(("1.png", 1), ("2.png", 2)), split(("7.png", 1), ("4.png", 4))))
    inputs = opened(monkeypatch, [1, 2, 4], kept=kept, tests=2)
    assert inputs.notes[1] == "images of the test part that are left out: 2"
    names = [("1.png", 1), ("2.png", 2), ("7.png", 1), ("4.png", 4)]
    inputs = opened(monkeypatch, names, kept=kept, tests=1)
    assert chosen(inputs) == [7, 4]
    assert inputs.notes == (
        "2 of 4 images are left out: the model was trained on them",
        "1 of 2 images are exact copies of training images",
        "images of the test part that are left out: 1",
    )


def test_lost_validation_images_are_said(monkeypatch) -> None:
    inputs = opened(monkeypatch, [1, 2, 3, 4], reference="mine")
    assert chosen(inputs) == [4]
    assert inputs.notes[1] == "1 of 2 validation images of the run are missing"


def test_training_images_alone_are_used_with_a_warning(monkeypatch) -> None:
    inputs = opened(monkeypatch, [1, 2])
    assert chosen(inputs) == [1, 2]
    assert inputs.notes == (
        "the model was trained on all 2 images: the result says nothing about new images",
    )


def test_a_few_known_images_in_other_data(monkeypatch) -> None:
    numbers = [1, *range(20, 29)]
    evaluated = opened(monkeypatch, numbers)
    assert chosen(evaluated) == numbers[1:]
    assert evaluated.what == "other"
    # A prediction gives each image its row.
    predicted = opened(monkeypatch, numbers, need_labels=False)
    assert chosen(predicted) == numbers
    assert predicted.notes == ("the model was trained on 1 of 10 images",)


def test_a_prediction_of_the_own_data_leaves_out_what_was_trained_on(monkeypatch) -> None:
    predicted = opened(monkeypatch, [1, 2, 3, 4, 5, 9], need_labels=False)
    assert chosen(predicted) == [4, 5, 9]


def test_of_images_without_labels_none_is_left_out(monkeypatch) -> None:
    inputs = opened(monkeypatch, [3, 2, 1], labelled=False, need_labels=False)
    assert chosen(inputs) == [3, 2, 1]


@pytest.mark.parametrize("same", [True, False])
def test_of_a_run_without_a_split_changed_data_are_said(monkeypatch, same) -> None:
    images = np.zeros((8, *SHAPE), np.uint8)
    images[:, 0, 0, 0] = range(8)

    def load(_reference, _datasets, options, _tasks):
        names = [str(number) for number in range(8)]
        labels = np.arange(8) % 2
        return dataset_from_arrays(
            "d", images, labels, names=names, classes=["a", "b"], options=options
        )

    monkeypatch.setattr("cnnforge.prediction.samples.open_dataset", load)
    digest = load("", None, DataOptions(), None).fingerprint if same else "another"
    plugins = discover()
    inputs = open_samples("d", SHAPE, plugins.datasets, RunData("d", 0.2, 0, digest))
    assert inputs.what == "the validation part of d"
    assert len(inputs.notes) == (not same)
    assert all("perhaps trained on some of these images" in note for note in inputs.notes)
