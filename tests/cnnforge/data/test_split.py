import numpy as np
import pytest

from cnnforge.data.split import singleton_classes_note, stratified_split


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
def test_every_row_is_on_one_side_and_every_class_in_proportion(fraction):
    labels = np.random.default_rng(0).integers(0, 7, 1000)
    train, validation = stratified_split(labels, fraction, 3)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(1000))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    for label in range(7):
        count = np.count_nonzero(labels == label)
        assert abs(np.count_nonzero(labels[validation] == label) - count * fraction) <= 0.5


def test_small_classes_have_a_sample_on_each_side():
    labels = np.array([0, 0, 1, 1, 1, 2])
    for fraction in (0.01, 0.99):
        train, validation = stratified_split(labels, fraction, 0)
        assert set(labels[train]) == {0, 1, 2}
        assert set(labels[validation]) == {0, 1}


def test_the_rows_are_these_on_every_machine_and_with_every_numpy():
    train, validation = stratified_split(np.arange(20) % 2, 0.2, 0)
    assert validation.tolist() == [4, 6, 9, 15]
    assert len(train) == 16


def test_another_seed_is_another_split_and_the_same_seed_the_same():
    labels = np.arange(200) % 2
    first, again, other = (stratified_split(labels, 0.3, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_classes_are_drawn_independently():
    """Rows at the same position of two classes are not chosen together."""
    _, validation = stratified_split(np.repeat([0, 1], 100), 0.5, 0)
    assert set(validation[validation < 100]) != set(validation[validation >= 100] - 100)


def test_no_labels_make_two_empty_sides():
    train, validation = stratified_split(np.zeros(0, np.int32), 0.2, 0)
    assert len(train) == len(validation) == 0


def test_lonely_classes_are_named():
    assert singleton_classes_note(np.array([0, 0, 1, 1]), ("a", "b")) == ()
    (note,) = singleton_classes_note(np.array([0, 1, 1, 2]), ("a", "b", "c"))
    assert "'a', 'c'" in note
