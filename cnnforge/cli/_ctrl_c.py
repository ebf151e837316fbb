"""End the program soon after a Ctrl-C, whatever it is doing.

Python raises `KeyboardInterrupt` in the main thread between two instructions of Python. The main
thread runs none for up to ten seconds while LLVM compiles, or while TensorFlow waits for a kernel
that one of its threads compiles. If the main thread is in a callback, a library may lose the
exception. So from the import of Keras on, a second thread receives the signal too, and ends the
process if the main thread does not. Before that import, the exception is enough.

`signal.SIG_DFL` needs no thread, but it ends the process without a message, leaves the cursor
hidden, and calls no exit handlers.

Files are written to a temporary name and renamed, so a process that ends here loses nothing that
was saved.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

EXIT_CODE = 130
"""The exit code after a Ctrl-C: 128 plus the number of the signal."""

# Seconds that the main thread has to end the program. An exception that is not lost needs a few
# hundredths.
_PATIENCE = 0.7
_SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"


class _Watch:
    """The thread that ends this process after a Ctrl-C, and what it needs to know.

    Attributes:
        interrupted: Whether the main thread got a `KeyboardInterrupt`.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._count = 0
        self._limit = 1
        self._code: int | None = None
        self._finished = threading.Event()
        # Stderr is held back, by name and by number, while a backend is imported.
        self._stderr = os.dup(2)
        self._signals, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._raise)
        # Registered before those of a backend, and so called after them.
        atexit.register(self._leave)
        threading.Thread(target=self._listen, name="cnnforge-ctrl-c", daemon=True).start()

    def finish(self, code: int) -> None:
        if code in (EXIT_CODE, 128 + signal.SIGTERM):
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
            self._count += numbers.count(signal.SIGINT)
            if self._count >= self._limit:
                if not self._finished.wait(_PATIENCE):
                    cursor = _SHOW_CURSOR if os.isatty(self._stderr) else b""
                    with contextlib.suppress(OSError):
                        os.write(self._stderr, cursor + f"error: {_message}\n".encode())
                    os._exit(EXIT_CODE)
                return

    def _leave(self) -> None:
        """End an interrupted process here: tearing down a backend takes another 1 to 3 s."""
        if self._code is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(self._code)


_is_program = False
_watch: _Watch | None = None
_message = "interrupted"


def enable() -> None:
    """Allow `watch` to change signals, because this process is the program `cnnforge`."""
    global _is_program
    _is_program = True


def watch() -> None:
    """End this process soon after a Ctrl-C from now on, if it is the program `cnnforge`."""
    global _watch
    is_main = threading.current_thread() is threading.main_thread()
    if _is_program and _watch is None and os.name == "posix" and is_main:
        # Without file descriptors, a Ctrl-C does what it does in any Python program.
        with contextlib.suppress(OSError):
            _watch = _Watch()


def finish(code: int) -> int:
    """Note that the program's work is done, so that it ends by itself.

    Args:
        code: The exit code.

    Returns:
        The exit code.
    """
    if _watch is not None:
        _watch.finish(code)
    return code


def saving() -> contextlib.AbstractContextManager[None]:
    """Return a context in which the caller handles the first Ctrl-C: it saves, and then ends.

    The second Ctrl-C ends the program whatever it is doing.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before, and the exception was lost.
    """
    return contextlib.nullcontext() if _watch is None else _watch.saving()


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed; later errors may be its consequence."""
    return _watch is not None and _watch.interrupted


def message() -> str:
    """Return the message that is printed after a Ctrl-C."""
    return _message


def set_message(text: str) -> None:
    """Set the message that is printed after a Ctrl-C from now on.

    Args:
        text: A message that says what was interrupted, what is kept and how to go on.
    """
    global _message
    if _is_program:
        _message = text
