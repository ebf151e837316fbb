"""Ctrl-C: the program ends soon, whatever it is doing.

Python tells the main thread of a signal between two of its own instructions. While LLVM compiles,
or TensorFlow waits for a kernel that another of its threads has compiled, there is none for up to
ten seconds; and where the main thread is in a callback, a library may lose the exception. So a
thread of its own hears of the signal too, and ends the process where the main thread does not.

Files are written to a temporary name and renamed, so nothing that was there is lost.
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

# An exception that is not lost has unwound in a few hundredths.
_PATIENCE = 0.7
_SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"


class Watch:
    """What becomes of interrupts of this process.

    Attributes:
        message: What is said after one.
        came: Whether the main thread was told of one, with a `KeyboardInterrupt`.
    """

    def __init__(self) -> None:
        self.message = "interrupted"
        self.came = False
        self._count = 0
        self._enough = 1
        self._code: int | None = None
        self._ended = threading.Event()
        # Stderr is held back, by name and by number, while a backend is imported.
        self._stderr = os.dup(2)
        self._signals, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._raise)
        # The first to be registered, and so the last to be called.
        atexit.register(self._leave)
        threading.Thread(target=self._listen, name="cnnforge-interrupt", daemon=True).start()

    def end(self, code: int) -> None:
        """Tell it that the program's work is done; soon after, if it was interrupted, it ends.

        Args:
            code: The exit code.
        """
        if code in (EXIT_CODE, 128 + signal.SIGTERM):
            self._code = code
        self._ended.set()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """A context in which the first interrupt is a wish that is granted after a file is saved.

        Raises:
            KeyboardInterrupt: There was one before, which was lost.
        """
        if self.came:
            raise KeyboardInterrupt
        self._enough = self._count + 2
        try:
            yield
        finally:
            self._enough = self._count + 1

    def _raise(self, number: int, frame: FrameType | None) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt

    def _listen(self) -> None:
        while numbers := os.read(self._signals, 64):
            self._count += numbers.count(signal.SIGINT)
            if self._count >= self._enough:
                if not self._ended.wait(_PATIENCE):
                    end = _SHOW_CURSOR if os.isatty(self._stderr) else b""
                    with contextlib.suppress(OSError):
                        os.write(self._stderr, end + f"error: {self.message}\n".encode())
                    os._exit(EXIT_CODE)
                return

    def _leave(self) -> None:
        """End an interrupted process here: a backend takes another 1 to 3 s to be taken down."""
        if self._code is not None:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(self._code)


_watch: Watch | None = None


def watch() -> None:
    """Have interrupts end this process soon. For a program, not for a call from Python."""
    global _watch
    is_main = threading.current_thread() is threading.main_thread()
    if _watch is None and os.name == "posix" and is_main:
        with contextlib.suppress(OSError):
            # No file descriptors are to be had: as in any Python program, then.
            _watch = Watch()


def end(code: int) -> int:
    """Return the exit code of the program, whose work is done."""
    if _watch is not None:
        _watch.end(code)
    return code


def saving() -> contextlib.AbstractContextManager[None]:
    """A context in which the first interrupt does not end the program: it saves, and ends then.

    The second one ends it, whatever it is doing.

    Raises:
        KeyboardInterrupt: There was an interrupt before, which was lost.
    """
    return contextlib.nullcontext() if _watch is None else _watch.saving()


def came() -> bool:
    """Whether there was an interrupt: what fails then may have failed of it."""
    return _watch is not None and _watch.came


def message() -> str:
    """Return what is said after an interrupt."""
    return "interrupted" if _watch is None else _watch.message


def say(text: str) -> None:
    """Set what is said after an interrupt from now on.

    Args:
        text: What was interrupted, what is kept, how to go on.
    """
    if _watch is not None:
        _watch.message = text
