"""Tables, messages and progress, on a terminal and in a pipe."""

import pytest

from cnnforge.cli import _render


@pytest.fixture
def terminal(monkeypatch):
    """Make rich take the streams for a narrow terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_message_is_on_stderr_and_no_markup(capsys):
    _render.message("read runs/[1]/[/2]: 3 files :smile:")
    assert capsys.readouterr() == ("", "read runs/[1]/[/2]: 3 files :smile:\n")


def test_error_is_one_line(capsys):
    _render.error("got [red]\n " + "word " * 60)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: got [red] word word")
    assert err.count("\n") == 1


def test_no_colours_in_a_pipe(capsys):
    _render.error("no")
    _render.message("no", style="red")
    assert "\x1b" not in capsys.readouterr().err


def test_colours_on_a_terminal(terminal, capsys):
    _render.error("no")
    assert "\x1b[1;31merror:" in capsys.readouterr().err


def test_table_in_a_pipe_is_not_cut(capsys):
    long = "x" * 500
    _render.table(["name", "text"], [["a", long], ["b [c]", None]], title="a [title]")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0] == "a [title]"
    assert lines[1].split() == ["name", "text"]
    assert lines[3].split() == ["a", long]
    assert lines[4].rstrip() == "b [c]"


def test_table_aligns_numbers_to_the_right(capsys):
    _render.table(["count", "share"], [[1, 0.5], [1000, None]])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows[0].startswith("    1 ")
    assert rows[1].startswith(" 1000 ")


def test_table_on_a_terminal_fits_it(terminal, capsys):
    _render.table(["name"], [["x" * 100]])
    assert capsys.readouterr().out.count("x" * 30) >= 2


def test_empty_table_has_its_headings(capsys):
    _render.table(["name", "value"], [])
    assert capsys.readouterr().out.split()[:2] == ["name", "value"]


def use_progress():
    with _render.progress() as display:
        display.advance(1, note="before anything has begun")
        display.start("epoch [1]", total=10)
        display.advance(4, note="loss [0.5]")
        display.message("epoch [1]: done")
        display.start("epoch [2]", total=20)
        display.advance(curve="▁█")


def test_progress_in_a_pipe_says_its_messages_only(capsys):
    use_progress()
    assert capsys.readouterr() == ("", "epoch [1]: done\n")


def test_progress_on_a_terminal(terminal, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    use_progress()
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch [1]: done" in err
    assert "epoch [2]" in err
    assert "1/20" in err
    assert "▁█" in err
