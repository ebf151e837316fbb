"""A check runs after those that it depends on, and a cause is reported once."""

import sys
import unittest

import pytest

import cnnforge.testing
from cnnforge.testing import Check, NotRunError, RepeatedError, layer_checks


def failing(message="wrong"):
    def run():
        raise AssertionError(message)

    return run


def test_a_check_is_not_run_after_a_failed_one():
    calls = []
    first = Check("memory", "a", failing())
    second = Check("values", "a", lambda: calls.append("values") or "", (first,))
    third = Check("gradients", "a", lambda: calls.append("gradients") or "", (second,))
    assert third.result() == ("not run", "not run: memory-a failed")
    with pytest.raises(NotRunError, match="not run: memory-a failed"):
        third()
    with pytest.raises(AssertionError, match="wrong"):
        first()
    assert calls == []
    assert third.alone() == ("ok", "")
    assert calls == ["gradients"]


def test_a_check_runs_once():
    calls = []
    check = Check("values", "", lambda: calls.append(1) or "note")
    assert [check(), check(), check.result()] == ["note", "note", ("ok", "note")]
    assert calls == [1]


def test_a_check_that_can_say_nothing_stops_no_other():
    def says_nothing():
        raise NotRunError("not run: 'forward' is not compiled")

    first = Check("races", "a", says_nothing)
    second = Check("values", "a", lambda: "fine", (first,))
    assert first.result() == ("not run", "not run: 'forward' is not compiled")
    assert second.result() == ("ok", "fine")
    with pytest.raises(NotRunError, match="is not compiled"):
        first()


def test_a_cause_is_reported_once():
    one = Check("values", "a", failing("sign"))
    two = Check("values", "b", failing("sign too"), (), (one,))
    three = Check("values", "c", lambda: "", (), (one, two))
    assert one.result() == ("failed", "sign")
    assert two.result() == ("same", "fails too, as values-a: sign too")
    assert three.result() == ("ok", "")
    with pytest.raises(RepeatedError):
        two()
    after = Check("gradients", "b", lambda: "", (two,))
    assert after.result() == ("not run", "not run: values-b failed")


def test_the_check_of_one_case_alone_reports_it():
    one = Check("values", "a", failing("sign"))
    two = Check("values", "b", failing("sign too"), (), (one,))
    assert two.result() == ("failed", "sign too")


def test_pytest_and_unittest_skip_what_is_not_run():
    assert issubclass(NotRunError, unittest.SkipTest)
    assert issubclass(RepeatedError, NotRunError)


def test_other_errors_are_failures():
    def ends():
        sys.exit(3)

    def divides():
        return 1 // 0

    status, message = Check("runs", "", ends).result()
    assert status == "failed"
    assert message.startswith("it ends the program: sys.exit(3) (")
    status, message = Check("runs", "", divides).result()
    assert status == "failed"
    assert message.startswith("ZeroDivisionError: ")


def test_dir_shows_what_needs_keras():
    assert set(cnnforge.testing.__all__) <= set(dir(cnnforge.testing))
    assert "layer_checks" in dir(cnnforge.testing)


def test_the_order_of_causes():
    kinds = list(dict.fromkeys(check.kind for check in layer_checks("builtin/max_pooling2d")))
    order = [
        *("targets", "registration", "builds", "output_shape", "runs", "prints", "index_in_range"),
        *("races", "every_element_written", "inputs_unchanged", "determinism", "no_state"),
        *("oracle", "reference", "values_oracle", "values_reference", "gradients_oracle"),
        *("gradients_reference", "config_round_trip", "bad_arguments", "batch_sizes"),
    ]
    assert kinds[: len(order)] == order
    assert kinds[-1] == "save_and_load"
