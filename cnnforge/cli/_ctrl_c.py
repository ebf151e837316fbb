"""End the program soon after a Ctrl-C, even while native code runs.

Python raises `KeyboardInterrupt` in the main thread, and only between two Python instructions.
While LLVM compiles, or while TensorFlow waits for a kernel that another thread compiles, the main
thread may execute no such instruction for up to ten seconds. And if the exception is raised in a
callback, the library that called the callback may catch it. For these two cases a second thread
receives the signal too. It ends the process if the main thread does not. The second thread is
started just before the import of Keras, since until then the exception is enough.

The default action of the signal, `signal.SIG_DFL`, would need no thread. But it ends the process
without a message, leaves the cursor hidden, and calls no exit handlers.

The program writes each file under a temporary name and renames it. So all files are complete,
whenever the process ends.

SIGTERM and SIGHUP are treated like a Ctrl-C, so that temporary files are removed. Commands that
save a state have handlers of their own for these signals, see `cnnforge.utils.stop_signals`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

EXIT_CODE = 130
"""The exit code after a Ctrl-C: 128 plus the number of the signal."""

# The exit codes of a command that a signal has interrupted. Windows has no SIGHUP and no SIGUSR1.
_AFTER_SIGNAL = (
    EXIT_CODE,
    128 + signal.SIGTERM,
    128 + getattr(signal, "SIGHUP", 1),
    128 + getattr(signal, "SIGUSR1", 10),
)

# Seconds after a Ctrl-C until the second thread ends the program. If no library catches the
# exception, the main thread ends the program earlier, within a few hundredths of a second.
_PATIENCE = 0.7
_SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"


class _Watch:
    """Starts the second thread, which ends this process after a Ctrl-C, and holds its state.

    Attributes:
        interrupted: Whether Ctrl-C was pressed and `KeyboardInterrupt` was raised.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._count = 0
        self._limit = 1
        self._code: int | None = None
        self._finished = threading.Event()
        # A copy of stderr's file descriptor, for the message of the second thread. While a backend
        # is imported, `sys.stderr` and descriptor 2 write to a temporary file instead.
        self._stderr = os.dup(2)
        self._encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        self._signals, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._raise)
        sys.unraisablehook = _silent_after_interrupts(sys.unraisablehook)
        # Exit handlers run in reverse order: this one, registered first, runs after those of a
        # backend.
        atexit.register(self._leave)
        threading.Thread(target=self._listen, name="cnnforge-ctrl-c", daemon=True).start()

    def finish(self, code: int) -> None:
        if code in _AFTER_SIGNAL:
            self._code = code
        self._finished.set()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        if self.interrupted:
            raise KeyboardInterrupt
        self._limit = self._count + 2
        try:
            yield
        finally:
            self._limit = self._count + 1

    def _raise(self, number: int, frame: FrameType | None) -> NoReturn:
        self.interrupted = True
        raise KeyboardInterrupt

    def _listen(self) -> None:
        while numbers := os.read(self._signals, 64):
            # Not those for which a command that saves has a handler of its own.
            self._count += sum(
                number == signal.SIGINT or signal.getsignal(number) is _end for number in numbers
            )
            if self._count >= self._limit:
                if not self._finished.wait(_PATIENCE):
                    cursor = _SHOW_CURSOR if os.isatty(self._stderr) else b""
                    line = f"error: {message()}\n".encode(self._encoding, "backslashreplace")
                    with contextlib.suppress(OSError):
                        os.write(self._stderr, cursor + line)
                    os._exit(exit_code())
                return

    def _leave(self) -> None:
        """End an interrupted process without freeing the backend, which would take 1 to 3 s."""
        if self._code is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(self._code)


_is_program = False
_watch: _Watch | None = None
_message = "interrupted"
# The signal other than SIGINT that ends the program, and the number of its process.
_received: signal.Signals | None = None
_process = 0


def enable() -> None:
    """Install handlers for SIGTERM and SIGHUP, and allow `watch` to install one for SIGINT.

    Only the program `cnnforge` calls this.
    """
    global _is_program, _process
    _is_program, _process = True, os.getpid()
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A signal is ignored, for instance, if the program was started with nohup.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    """End the program as after a Ctrl-C."""
    global _received
    if os.getpid() != _process:
        # A copy of the process has inherited the handler, and is to end at once.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _received = signal.Signals(number)
    raise KeyboardInterrupt


def watch() -> None:
    """Start the second thread, which ends the program `cnnforge` after a Ctrl-C.

    In any other program, do nothing.
    """
    global _watch
    is_main = threading.current_thread() is threading.main_thread()
    if _is_program and _watch is None and os.name == "posix" and is_main:
        # If no file descriptor is free, go on without the second thread. Then Ctrl-C only raises
        # KeyboardInterrupt as usual.
        with contextlib.suppress(OSError):
            _watch = _Watch()


def _silent_after_interrupts(hook: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a hook for exceptions that are lost, which shows none after a signal.

    `KeyboardInterrupt` is lost if it is raised while native code calls Python, for instance while
    LLVM compiles. The second thread then ends the program. And an object that an interruption has
    left half made may raise an exception when it is freed.
    """

    def show(unraisable: Any) -> None:
        if not was_interrupted():
            hook(unraisable)

    return show


def ignore() -> None:
    """Ignore further signals, because the program is about to end with a message."""
    if _is_program and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)):
            if number is not None:
                signal.signal(number, signal.SIG_IGN)


def finish(code: int) -> int:
    """Stop the second thread from ending this process, because the program is about to end.

    Args:
        code: The exit code.

    Returns:
        The exit code.
    """
    if _watch is not None:
        _watch.finish(code)
    return code


def saving() -> contextlib.AbstractContextManager[None]:
    """Return a context manager for code that handles Ctrl-C itself and saves before it ends.

    Within the context, the second thread ends the program only after the second Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before, and a library caught the exception.
    """
    return contextlib.nullcontext() if _watch is None else _watch.saving()


def was_interrupted() -> bool:
    """Return whether a signal has arrived. If it has, it may be the cause of other errors."""
    return _received is not None or (_watch is not None and _watch.interrupted)


def exit_code() -> int:
    """Return the exit code of a program that was interrupted: 130, 143 or 129."""
    return EXIT_CODE if _received is None else 128 + _received


def message() -> str:
    """Return the message that is printed after a Ctrl-C, SIGTERM or SIGHUP."""
    if _received is None:
        return _message
    return _message.replace("interrupted", f"interrupted by {_received.name}", 1)


def set_message(text: str) -> None:
    """Set the message that is printed after a Ctrl-C from now on.

    Args:
        text: A message that says what was interrupted, what is kept and how to go on.
    """
    global _message
    if _is_program:
        _message = text
