"""Rows and tables of predictions."""

import numpy as np

from cnnforge import prediction
from cnnforge.tasks.classification import Classification, Prediction, rank, submission

TASK = Classification(("a", "b"))

ROWS = [
    Prediction("a.png", (("cat", 0.75), ("dog", 0.25)), true_label="dog"),
    Prediction("b, c.png", error="empty file"),
]


def test_rank_puts_the_best_first_and_ties_in_the_order_of_the_classes() -> None:
    found = rank(np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]]), ("a", "b", "c"), 2)
    assert found == [(("b", 0.5), ("c", 0.3)), (("a", 0.4), ("c", 0.4))]
    assert len(rank(np.ones((1, 3)), ("a", "b", "c"), 9)[0]) == 3


def test_a_row() -> None:
    assert (ROWS[0].label, ROWS[0].probability) == ("cat", 0.75)
    assert (ROWS[1].label, ROWS[1].probability) == (None, None)
    assert ROWS[1].as_dict()["error"] == "empty file"


def test_csv() -> None:
    assert TASK.csv_table(ROWS).splitlines() == [
        "file,label,probability,label_2,probability_2,true_label,error",
        "a.png,cat,0.750000,dog,0.250000,dog,",
        '"b, c.png",,,,,,empty file',
    ]
    assert (
        TASK.csv_table([Prediction("a", (("x", 1.0),))]) == "file,label,probability\na,x,1.000000\n"
    )
    assert TASK.csv_table([]) == "file,label,probability\n"


def test_the_package_of_0_1_still_has_its_functions() -> None:
    assert prediction.Prediction is Prediction
    assert prediction.submission is submission
    for rows in (ROWS, ROWS[1:], []):
        assert prediction.csv_table(rows) == TASK.csv_table(rows)


def test_submission_has_an_id_for_each_row_and_drops_nothing() -> None:
    assert submission(ROWS, ["7", "a,b"], "ImageId") == 'ImageId,Label\n7,cat\n"a,b",\n'
    assert submission(ROWS, ["7", "8"], "image").splitlines()[0] == "image,label"
