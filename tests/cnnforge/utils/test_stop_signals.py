"""Signals ask the loop to stop."""

import os
import signal
import threading

import pytest

from cnnforge.training import StopOnSignal


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_is_a_wish(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with StopOnSignal() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert (stop.exit_code, stop.name) == (code, number.name)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_is_an_order() -> None:
    with StopOnSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.exit_code == 143


def test_other_threads_may_use_it() -> None:
    seen: list[int] = []

    def use() -> None:
        with StopOnSignal() as stop:
            seen.append(stop.exit_code)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [0]


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopOnSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_hangup_changes_nothing() -> None:
    with StopOnSignal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.exit_code, stop.name) == (129, "SIGHUP")
