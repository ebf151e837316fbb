"""Tests of Ctrl-C at places where a `KeyboardInterrupt` does not end the program."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cnnforge.cli import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")

# A command that prints when it has begun, and then does what a test wants of it.
PROGRAM = """
import atexit, os, signal, sys, time
from types import ModuleType
import typer
from cnnforge.cli import app, main
from cnnforge.cli import _ctrl_c
from cnnforge.cli._import_keras import import_keras

class Kept:
    def __del__(self, os=os):
        os.write(1, b"taken down\\n")

sys.modules["kept"] = ModuleType("kept")
sys.modules["kept"].kept = Kept()

@app.app.command()
def act() -> None:
    sys.modules["keras"] = ModuleType("keras")
    import_keras()
    atexit.register(lambda: print("handler", flush=True))
    {body}

sys.exit(main())
"""
WAITS = """
    print("there", flush=True)
    time.sleep(30)
"""
LOSES = """
    while True:
        try:
            print("there", flush=True)
            time.sleep(30)
        except KeyboardInterrupt:
            pass
"""
LOSES_IN_A_CALLBACK = """
    import ctypes
    def wait():
        print("there", flush=True)
        time.sleep(30)
    called = ctypes.CFUNCTYPE(None)(wait)
    while True:
        called()
"""
LEAVES_HALF_AN_OBJECT = """
    class Half:
        def __init__(self):
            print("there", flush=True)
            time.sleep(30)
            self.file = 3
        def __del__(self):
            del self.file
    Half()
"""
LOST_BEFORE_SAVING = """
    try:
        print("there", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        pass
    with _ctrl_c.saving():
        print("saving", flush=True)
"""
SAVES = """
    stop = []
    signal.signal(signal.SIGINT, lambda *_: stop.append(1))
    with _ctrl_c.saving():
        print("there", flush=True)
        while not stop:
            time.sleep(0.01)
        # Longer than the program has outside of `saving`.
        time.sleep(1.2)
        print("saved", flush=True)
    raise typer.Exit(130)
"""
SAVES_FOR_EVER = """
    # Not by print: the signal may come while that prints.
    signal.signal(signal.SIGINT, lambda *_: os.write(1, b"asked\\n"))
    _ctrl_c.set_message("interrupted; go on with this")
    with _ctrl_c.saving():
        print("there", flush=True)
        while True:
            time.sleep(0.01)
"""


LOSES_WITH_LETTERS = (
    """
    _ctrl_c.set_message("go on with gr\\xf6\\xdfe \\udce4")
"""
    + LOSES
)


def start(body, **environment):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body.strip()), "act"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout.readline() == "there\n"
    return process


def interrupt(process):
    """Interrupt a process and return its exit code, what it prints, and how long it takes."""
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    return *finish(process), time.monotonic() - begun


def finish(process):
    # Not `communicate`: it misses what was read together with the first line.
    with process:
        out, err = process.stdout.read(), process.stderr.read()
    return process.returncode, out, err


def test_an_interrupt_ends_the_program_after_its_exit_handlers():
    # Modules are not torn down, which takes seconds with a backend.
    code, out, err, _ = interrupt(start(WAITS))
    assert (code, out, err) == (130, "handler\n", "error: interrupted\n")


def test_an_interrupt_that_is_lost_ends_the_program():
    code, _, err, seconds = interrupt(start(LOSES))
    assert (code, err) == (130, "error: interrupted\n")
    assert seconds < 10


def test_an_interrupt_that_native_code_loses_is_not_shown():
    code, _, err, _ = interrupt(start(LOSES_IN_A_CALLBACK))
    assert (code, err) == (130, "error: interrupted\n")


def test_an_object_that_is_half_made_is_freed_in_silence():
    code, _, err, _ = interrupt(start(LEAVES_HALF_AN_OBJECT))
    assert (code, err) == (130, "error: interrupted\n")


def test_letters_that_stderr_cannot_show_do_not_stop_the_second_thread():
    code, _, err, seconds = interrupt(start(LOSES_WITH_LETTERS, PYTHONIOENCODING="ascii"))
    assert (code, err) == (130, "error: go on with gr\\xf6\\xdfe \\udce4\n")
    assert seconds < 10


def test_nothing_is_saved_after_an_interrupt_that_was_lost():
    code, out, err, _ = interrupt(start(LOST_BEFORE_SAVING))
    assert (code, out, err) == (130, "handler\n", "error: interrupted\n")


def test_the_first_interrupt_lets_a_command_save():
    code, out, err, _ = interrupt(start(SAVES))
    assert (code, out, err) == (130, "saved\nhandler\n", "")


def test_the_second_interrupt_ends_a_command_that_saves():
    process = start(SAVES_FOR_EVER)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    code, out, err, _ = interrupt(process)
    assert (code, out, err) == (130, "asked\n", "error: interrupted; go on with this\n")


def test_without_an_interrupt_modules_are_torn_down():
    code, out, err = finish(start('print("there", flush=True)'))
    assert (code, out, err) == (0, "handler\ntaken down\n", "")


def test_no_thread_is_started_before_keras_is_imported():
    source = "import sys, threading\nfrom cnnforge.cli import main\nmain()\n"
    source += "print([thread.name for thread in threading.enumerate()])"
    run = subprocess.run(
        [sys.executable, "-c", source, "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "['MainThread']"


def test_a_call_from_python_changes_no_signals(capsys):
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    assert main(["--version"]) == 0
    after = signal.set_wakeup_fd(before)
    assert after == before
    capsys.readouterr()
