"""T9 and T10: a signal saves the run, which goes on with the same bits. T11: see test_commands."""

import signal
from pathlib import Path

import pytest
from forked import SLOW, files_in

from cnnforge.training import StateStore

EPOCHS = ("--epochs", "3")
SIGNALS = (signal.SIGTERM, signal.SIGINT, *(signal.SIGHUP, signal.SIGUSR1) * SLOW)

# The second Ctrl-C comes when the data are in the temporary file, before it gets its name.
SECOND_CTRL_C = """
import os, signal
from cnnforge.utils import atomic_files
synchronize = os.fsync
def fsync(file):
    asked = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    if type(asked).__name__ == "StopOnSignal" and asked():
        os.kill(os.getpid(), signal.SIGINT)
    synchronize(file)
os.fsync = fsync
"""


@pytest.mark.parametrize("number", SIGNALS, ids=[each.name for each in SIGNALS])
def test_t09_a_signal_saves_and_the_run_ends_with_the_same_bits(train, whole, tmp_path, number):
    batch = 4 + SIGNALS.index(number)
    ended = train("small", tmp_path, *EPOCHS, environment={"TOY_SIGNAL": f"{number} {batch}"})
    assert ended.code == 128 + number, ended.err
    run = tmp_path / "small-toy-001"
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    last = ended.err.splitlines()[-1]
    assert last == (
        f"interrupted by {name}; the state is saved; go on with 'cnnforge train --resume {run}'"
    )
    assert ended.out == ""
    resumed = train("--resume", run).json
    expected = whole("small", *EPOCHS).json
    assert resumed["weights"] == expected["weights"]
    assert resumed["validation"] == expected["validation"]


def test_t10_a_second_ctrl_c_while_the_state_is_saved(train, whole, tmp_path: Path):
    where = {"TOY_SIGNAL": f"{signal.SIGINT} 9"}
    ended = train("small", tmp_path, *EPOCHS, environment=where, before=SECOND_CTRL_C)
    assert ended.code == 130, ended.err
    run = tmp_path / "small-toy-001"
    (line,) = ended.errors
    assert line == f"error: interrupted; go on with 'cnnforge train --resume {run}'"
    assert not [name for name in files_in(run) if "tmp" in name]
    saved, warnings = StateStore(run / "last").load()
    assert warnings == []
    assert saved is not None
    assert train("--resume", run).json["weights"] == whole("small", *EPOCHS).json["weights"]


# The Ctrl-C comes when the options of the commands are read, which takes a tenth of a second.
BEFORE_THE_COMMAND = """
import os, signal, typer
get_command = typer.main.get_command
def interrupted(app):
    os.kill(os.getpid(), signal.SIGINT)
    return get_command(app)
typer.main.get_command = interrupted
"""
# The Ctrl-C comes when the message of an error is printed.
BEFORE_THE_MESSAGE = """
import os, signal
from cnnforge.cli import _render
error = _render.error
def interrupted(message):
    os.kill(os.getpid(), signal.SIGINT)
    error(message)
_render.error = interrupted
"""


def test_a_ctrl_c_before_the_command_begins(commands):
    ended = commands.run("runs", before=BEFORE_THE_COMMAND)
    assert (ended.code, ended.out, ended.err) == (130, "", "error: interrupted\n")


def test_a_second_ctrl_c_while_the_message_is_printed(commands):
    ended = commands.run("runs", before=BEFORE_THE_COMMAND + BEFORE_THE_MESSAGE)
    assert (ended.code, ended.out, ended.err) == (130, "", "error: interrupted\n")


def test_a_ctrl_c_while_the_message_of_an_error_is_printed(commands, tmp_path: Path):
    ended = commands.run("runs", tmp_path / "none", before=BEFORE_THE_MESSAGE)
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "none" in line
