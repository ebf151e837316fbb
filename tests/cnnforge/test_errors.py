"""One line out of any exception."""

import importlib
import json

import pytest

from cnnforge.errors import CnnforgeError, DataError, message_of, one_line, place_of


def caught(action):
    with pytest.raises(BaseException) as info:  # noqa: PT011
        action()
    return info.value


def test_type_message_and_place():
    line = one_line(caught(lambda: 1 / 0))
    assert line.startswith("ZeroDivisionError: division by zero (")
    assert f"({__file__}:" in line


def test_place_is_not_in_the_import_system(tmp_path, monkeypatch):
    (tmp_path / "acme_place.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(str(tmp_path))
    line = one_line(caught(lambda: importlib.import_module("acme_place")))
    assert line.endswith("acme_place.py:1)")
    assert __file__ in one_line(caught(lambda: importlib.import_module("no_such_module")))


def test_place_is_not_in_python_itself():
    assert f"({__file__}:" in one_line(caught(lambda: json.loads("{")))
    assert place_of(caught(lambda: json.loads("{"))).startswith(f" ({__file__}:")
    assert place_of(ValueError("never raised")) == ""


def test_lines_are_joined():
    assert one_line(ValueError("one\n  two")) == "ValueError: one two"
    assert one_line(ValueError("calling f. \x1b[1mno\x1b[0m")) == "ValueError: calling f. no"


def test_no_message():
    assert one_line(SystemExit()) == message_of(SystemExit()) == "SystemExit"


def test_the_message_alone():
    assert message_of(ValueError(" one\n  two ")) == "one two"


def test_syntax_error_names_its_place_once():
    line = one_line(caught(lambda: compile("def (", "mine.py", "exec")))
    assert line.count("line 1") == 1
    assert __file__ not in line


@pytest.mark.parametrize("error_type", [CnnforgeError, DataError])
def test_own_message_stands_for_itself(error_type):
    def action():
        raise error_type("got 1, expected 2")

    assert one_line(caught(action)) == "got 1, expected 2"
