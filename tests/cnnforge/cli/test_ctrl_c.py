"""Ctrl-C while the program is somewhere that an exception does not end."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cnnforge.cli import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")

# A command that says when it is there, and then does what is wanted of it.
PROGRAM = """
import atexit, os, signal, sys, time
from types import ModuleType
import typer
from cnnforge.cli import app, main
from cnnforge.cli import _ctrl_c

class Kept:
    def __del__(self, os=os):
        os.write(1, b"taken down\\n")

sys.modules["kept"] = ModuleType("kept")
sys.modules["kept"].kept = Kept()

@app.app.command()
def act() -> None:
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
LOST_BEFORE_SAVING = """
    try:
        print("there", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        pass
    with _interrupt.saving():
        print("saving", flush=True)
"""
SAVES = """
    stop = []
    signal.signal(signal.SIGINT, lambda *_: stop.append(1))
    with _interrupt.saving():
        print("there", flush=True)
        while not stop:
            time.sleep(0.01)
        # Longer than an interrupt is waited for elsewhere.
        time.sleep(1.2)
        print("saved", flush=True)
    raise typer.Exit(130)
"""
SAVES_FOR_EVER = """
    # Not by print: the signal may come while that prints.
    signal.signal(signal.SIGINT, lambda *_: os.write(1, b"asked\\n"))
    _interrupt.say("interrupted; go on with this")
    with _interrupt.saving():
        print("there", flush=True)
        while True:
            time.sleep(0.01)
"""


def start(body):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body.strip()), "act"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "there\n"
    return process


def interrupt(process):
    """Interrupt a process and return its exit code, what it prints, and how long it takes."""
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    return *finish(process), time.monotonic() - begun


def finish(process):
    # Not `communicate`: it does not have what was read with the first line.
    with process:
        out, err = process.stdout.read(), process.stderr.read()
    return process.returncode, out, err


def test_an_interrupt_ends_the_program_after_its_exit_handlers():
    # Not taken down module by module: with a backend that takes seconds.
    code, out, err, _ = interrupt(start(WAITS))
    assert (code, out, err) == (130, "handler\n", "error: interrupted\n")


def test_an_interrupt_that_is_lost_ends_the_program():
    code, _, err, seconds = interrupt(start(LOSES))
    assert (code, err) == (130, "error: interrupted\n")
    assert seconds < 10


def test_an_interrupt_that_was_lost_lets_nothing_be_saved():
    code, out, err, _ = interrupt(start(LOST_BEFORE_SAVING))
    assert (code, out, err) == (130, "handler\n", "error: interrupted\n")


def test_what_saves_is_let_save():
    code, out, err, _ = interrupt(start(SAVES))
    assert (code, out, err) == (130, "saved\nhandler\n", "")


def test_the_second_interrupt_ends_what_saves():
    process = start(SAVES_FOR_EVER)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    code, out, err, _ = interrupt(process)
    assert (code, out, err) == (130, "asked\n", "error: interrupted; go on with this\n")


def test_a_program_that_ends_well_is_taken_down_as_ever():
    code, out, err = finish(start('print("there", flush=True)'))
    assert (code, out, err) == (0, "handler\ntaken down\n", "")


def test_a_call_from_python_changes_no_signals(capsys):
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    assert main(["--version"]) == 0
    after = signal.set_wakeup_fd(before)
    assert after == before
    capsys.readouterr()
