"""The task of a classification."""

from pathlib import Path

import keras
import numpy as np
import pytest

from cnnforge.data import ArraySamples, Dataset
from cnnforge.errors import DataError, RunError, UsageError
from cnnforge.runs import RunDirectory
from cnnforge.tasks.classification import Classification
from cnnforge.tasks.classification.task import balanced_weights

CLASSES = ("a", "b", "c")
LABELS = np.array([0, 2, 1, 1, 0], np.int32)


def samples(labels: np.ndarray) -> ArraySamples:
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return ArraySamples(images, labels, [str(n) for n in range(len(labels))])


def probabilities(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(3), count).astype(np.float32)


def losses(task: Classification) -> np.ndarray:
    outputs = keras.ops.convert_to_tensor(probabilities())
    found = task.losses({"label": keras.ops.convert_to_tensor(LABELS)}, outputs)
    return np.asarray(keras.ops.convert_to_numpy(found))


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (("a",), (0, 0), "at least two different"),
        (("a", "a"), (0, 1), "at least two different"),
        (("a", "b"), (0, 2), r"labels 0\.\.2: expected 0\.\.1"),
        (("a", "b"), (-1, 0), r"labels -1\.\.0: expected 0\.\.1"),
    ],
)
def test_labels_that_are_not_classes_are_refused(classes, labels, message) -> None:
    dataset = Dataset("x", classes, samples(np.array([0])), samples(np.array(labels)), "")
    with pytest.raises(DataError, match=message):
        Classification.for_dataset(dataset, {})


def test_samples_without_labels_are_refused() -> None:
    part = samples(LABELS)
    del part.labels
    with pytest.raises(DataError, match="ArraySamples have no labels"):
        Classification.for_dataset(Dataset("x", CLASSES, part, part, ""), {})


def test_an_unknown_class_is_answered_with_a_few_names_and_a_command() -> None:
    many = Classification([f"c{number}" for number in range(1000)])
    dataset = Dataset("x", ("owl", "c1"), samples(LABELS % 2), samples(LABELS % 2), "")
    with pytest.raises(UsageError) as raised:
        many.evaluator(dataset, dataset.train, np.arange(5))
    assert str(raised.value) == (
        "x has the class 'owl', which the model does not know; it knows c0, c1, c2, c3, c4 and "
        "995 more; 'cnnforge predict' needs no labels"
    )


def test_the_loss_is_the_cross_entropy() -> None:
    right = probabilities()[np.arange(5), LABELS]
    np.testing.assert_allclose(losses(Classification(CLASSES)), -np.log(right), rtol=1e-5)


def test_label_smoothing_mixes_the_label_with_all_classes() -> None:
    log = -np.log(probabilities())
    expected = 0.7 * log[np.arange(5), LABELS] + 0.3 * log.mean(axis=1)
    task = Classification(CLASSES, label_smoothing=0.3)
    np.testing.assert_allclose(losses(task), expected, rtol=1e-5)


def test_balanced_weights_give_every_class_the_same_part() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = balanced_weights(labels, 4)
    sums = np.bincount(labels, weights[labels], 4)
    np.testing.assert_allclose(sums, [10 / 3, 10 / 3, 0, 10 / 3], rtol=1e-6)
    dataset = Dataset("x", CLASSES, samples(LABELS), samples(LABELS), "")
    task = Classification.for_dataset(dataset, {"class_weights": "balanced"})
    factors = np.array([5 / 6, 5 / 6, 5 / 3])[LABELS]
    np.testing.assert_allclose(losses(task), losses(Classification(CLASSES)) * factors, rtol=1e-5)


def test_correct_samples_are_counted() -> None:
    outputs = keras.ops.convert_to_tensor(np.eye(3, dtype=np.float32)[[0, 2, 0, 1, 1]])
    task = Classification(CLASSES)
    sums = task.sums({"label": keras.ops.convert_to_tensor(LABELS)}, outputs)
    assert float(sums["correct"]) == 3
    assert task.sum_names == ("loss", "correct")
    assert task.training_metrics({"loss": 10.0, "correct": 3.0}, 5) == {"loss": 2, "accuracy": 0.6}


def test_an_evaluation_does_not_depend_on_the_batches() -> None:
    task, outputs = Classification(CLASSES), probabilities(50)
    labels = np.random.default_rng(1).integers(0, 3, 50)
    dataset = Dataset("x", CLASSES, samples(labels), samples(labels), "")
    found = []
    for size in (50, 7, 1):
        evaluator = task.evaluator(dataset, dataset.train, np.arange(50))
        for first in range(0, 50, size):
            evaluator.add(outputs[first : first + size])
        found.append(evaluator.result().as_dict())
    assert found[0] == found[1] == found[2]


def test_balanced_accuracy_and_macro_f1_are_means_over_the_classes_that_occur() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    outputs = np.eye(3, dtype=np.float32)[[0] * 8 + [0, 1]]
    dataset = Dataset("x", CLASSES, samples(labels), samples(labels), "")
    evaluator = Classification(CLASSES).evaluator(dataset, dataset.train, np.arange(10))
    evaluator.add(outputs)
    metrics = evaluator.result().metrics
    assert metrics["accuracy"] == 0.9
    assert metrics["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["macro_f1"] == pytest.approx((16 / 17 + 2 / 3) / 2)


def test_outputs_of_missing_or_other_samples_are_refused() -> None:
    dataset = Dataset("x", CLASSES, samples(LABELS), samples(LABELS), "")
    evaluator = Classification(CLASSES).evaluator(dataset, dataset.train, np.arange(5))
    with pytest.raises(ValueError, match=r"expected probabilities of shape \(n, 3\)"):
        evaluator.add(np.ones((2, 2)))
    evaluator.add(probabilities(3))
    with pytest.raises(ValueError, match="of 5 samples, got those of 3"):
        evaluator.result()


def tensor(values: np.ndarray) -> object:
    return keras.ops.convert_to_tensor(values)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, np.float32([0.5, 1, 3])], ids=["equal", "weights"])
def test_the_loss_of_a_mixed_image_is_the_mean_of_two_losses(smoothing, weights) -> None:
    task = Classification(CLASSES, label_smoothing=smoothing, class_weights=weights)
    other = np.array([1, 2, 0, 1, 2], np.int32)
    own_share = np.float32([0.9, 0.5, 0.2, 1, 0])
    targets = task.mixed({"label": LABELS}, {"label": other}, own_share)
    assert list(targets) == ["shares"]
    assert targets["shares"].dtype == np.float32
    outputs = tensor(probabilities())
    first, second, found = (
        np.asarray(keras.ops.convert_to_numpy(task.losses(each, outputs)))
        for each in (
            {"label": tensor(LABELS)},
            {"label": tensor(other)},
            {"shares": tensor(targets["shares"])},
        )
    )
    np.testing.assert_allclose(found, own_share * first + (1 - own_share) * second, rtol=1e-5)


def test_mixed_targets_are_mixed_again() -> None:
    task = Classification(CLASSES)
    half, all_own = np.full(1, 0.5, np.float32), np.ones(1, np.float32)
    first = task.mixed({"label": np.array([0])}, {"label": np.array([1])}, half)
    second = task.mixed({"label": np.array([2])}, {"label": np.array([2])}, all_own)
    np.testing.assert_allclose(task.mixed(first, second, half)["shares"], [[0.25, 0.25, 0.5]])


def test_a_mixed_image_counts_as_the_class_with_the_largest_share() -> None:
    task = Classification(CLASSES)
    shares = np.float32([[0.6, 0.4, 0], [0.6, 0.4, 0], [0.2, 0.3, 0.5]])
    outputs = np.float32([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0, 0.1, 0.9]])
    assert int(task.sums({"shares": tensor(shares)}, tensor(outputs))["correct"]) == 2


@pytest.mark.parametrize("text", ["", "{}", "[1]"])
def test_damaged_classes_are_said(tmp_path: Path, text: str) -> None:
    run = RunDirectory.create(tmp_path, "lenet", "mnist5k")
    Classification(("a", "b")).write(run)
    assert Classification.for_run(run).classes == ("a", "b")
    run.write_json("classes.json", ["e\u0301", " b", "c\n"])
    assert Classification.for_run(run).classes == ("\xe9", "\\x20b", "c\\n")
    (run.path / "classes.json").write_text(text)
    with pytest.raises(RunError, match=r"classes\.json"):
        Classification.for_run(run)
