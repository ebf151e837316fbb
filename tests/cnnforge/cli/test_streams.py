"""Output that cannot be written, or that cannot show every letter."""

import errno
import io
import json
import os
import subprocess
import sys

import pytest
import typer

from cnnforge.cli import _common, _render, main
from cnnforge.cli import app as app_module

NAMES = ["größe", "犬", "🐶", "schl\udce4cht", "a\\b"]


class Full(io.StringIO):
    """A stream on a full disk, or of a reader that has gone."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def flush(self):
        if self.getvalue():
            raise OSError(self.number, os.strerror(self.number))


@pytest.fixture
def act(monkeypatch):
    """Return a function that runs a command, and returns its exit code."""

    def run(body):
        app = typer.Typer(cls=app_module._Group, rich_markup_mode=None)
        app.command("act")(body)
        app.command("other")(lambda: None)
        monkeypatch.setattr(app_module, "app", app)
        return main(["act"])

    return run


def show() -> None:
    _render.table(["name", "länge"], [[name, len(name)] for name in NAMES], title="größe")
    typer.echo("größe 犬")
    _render.message("größe 犬")


def show_json() -> None:
    _common.print_json({name: name for name in NAMES})


def written_in(encoding, monkeypatch, act, body):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    err = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert act(body) == 0
    assert (sys.stdout, sys.stderr) == (out, err)
    return [stream.buffer.getvalue().decode(encoding) for stream in (out, err)]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8", "utf-16"])
def test_letters_become_escapes(encoding, monkeypatch, act):
    out, err = written_in(encoding, monkeypatch, act, show)
    assert "schl\\udce4cht" in out
    for text in (out, err):
        assert ("größe" in text) == (encoding != "ascii")
        assert ("gr\\xf6\\xdfe" in text) == (encoding == "ascii")
        assert ("犬" in text) == encoding.startswith("utf")
    # The columns are as wide as the escapes.
    lines = out.splitlines()
    rows = [line for line in lines if line.split() and line.split()[-1].isdigit()]
    assert len(rows) == len(NAMES)
    assert len({len(row) for row in rows}) == 1 or encoding.startswith("utf")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_json_is_the_same_value_in_every_encoding(encoding, monkeypatch, act):
    out, _ = written_in(encoding, monkeypatch, act, show_json)
    assert json.loads(out) == {name: name for name in NAMES}
    assert out.isascii() == (not encoding.startswith("utf"))


@pytest.mark.parametrize("body", [show, show_json])
def test_a_full_stdout_is_one_error(body, monkeypatch, capsys, act):
    monkeypatch.setattr(sys, "stdout", Full(errno.ENOSPC))
    assert act(body) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: the result could not be written to stdout: No space left")


def test_a_reader_that_has_gone_is_no_error(monkeypatch, capsys, act):
    monkeypatch.setattr(sys, "stdout", Full(errno.EPIPE))
    assert act(show) == 141
    assert capsys.readouterr().err == ""


def test_a_stdout_that_is_closed_is_one_error(monkeypatch, capsys, act):
    monkeypatch.setattr(sys, "stdout", None)
    assert act(show) == 1
    assert "stdout: it is closed" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_lost_messages_do_not_end_a_command(number, monkeypatch, capsys, act):
    monkeypatch.setattr(sys, "stderr", Full(number))
    assert act(show) == 0
    assert "schl" in capsys.readouterr().out


@pytest.mark.parametrize("stream", [None, io.TextIOWrapper(io.BytesIO())])
def test_a_stderr_that_is_closed_does_not_end_a_command(stream, monkeypatch, act):
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert act(show) == 0


def test_an_optional_result_is_a_warning(monkeypatch, capsys, act):
    def body() -> None:
        with _render.optional("it is in the file x"):
            show()

    monkeypatch.setattr(sys, "stdout", Full(errno.ENOSPC))
    assert act(body) == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        "warning: the result could not be printed on stdout: No space left on device; it is in "
        "the file x"
    )
    monkeypatch.setattr(sys, "stdout", Full(errno.EPIPE))
    assert act(body) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        (">/dev/full", 1, "error: the result could not be written to stdout: No space left"),
        (">&-", 1, "error: the result could not be written to stdout: it is closed"),
        (">/dev/full 2>/dev/full", 1, ""),
        (">&- 2>&- <&-", 1, ""),
        ("2>/dev/full >/dev/null", 0, ""),
    ],
)
def test_the_exit_code_is_that_of_the_command(redirection, code, error):
    program = "import sys; from cnnforge.cli import main; sys.exit(main())"
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "{program}" plugins {redirection}', sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith(error)
    assert done.stderr.count("\n") == (1 if error else 0)
