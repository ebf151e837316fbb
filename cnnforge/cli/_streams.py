r"""Write to stdout and stderr, whatever these streams can show and wherever they lead.

While a command runs, `prepared` puts a stream of this module in the place of `sys.stdout` and of
`sys.stderr`. A letter that the output cannot show is written as an escape, such as `\xe4`.

Results go to stdout. If they cannot be written, `OutputError` is raised. Messages go to stderr. If
they cannot be written, they are lost, and the command goes on: a training of many hours must not
end because its terminal was closed.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from cnnforge.errors import CnnforgeError

_PIPE_CLOSED = 128 + getattr(signal, "SIGPIPE", 13)


class OutputError(CnnforgeError):
    """A result could not be written to stdout.

    Args:
        cause: The error of the stream.

    Attributes:
        quiet: Whether the reader of stdout has closed it, as `| head -1` does. Nobody waits for the
            rest then, so no message is printed.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(
            f"the result could not be written to stdout: {cause.strerror or cause}; run the "
            "command again with its output in another place"
        )
        self.cause = str(cause.strerror or cause)
        self.quiet = cause.errno in (errno.EPIPE, errno.ESHUTDOWN)
        if self.quiet:
            # The exit code of a program that the signal SIGPIPE ends, such as `cat`.
            self.exit_code = _PIPE_CLOSED


def escaped(text: str, stream: Any) -> str:
    r"""Replace each letter that a stream cannot show by an escape such as `\xe4` or `\u732b`.

    Args:
        text: Any text.
        stream: A text stream. A stream without an encoding shows ASCII.
    """
    encoding = _encoding(stream)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def shows_unicode(stream: Any) -> bool:
    """Return whether a text stream can show every letter."""
    return codecs.lookup(_encoding(stream)).name.startswith("utf")


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr` during the block, as the module's docstring says."""
    before = sys.stdout, sys.stderr
    out, err = _Results(sys.stdout), _Messages(sys.stderr)
    sys.stdout, sys.stderr = out, err  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        out.forget_unwritten()
        err.forget_unwritten()


def open_missing() -> None:
    """Open the descriptors 0, 1 and 2 if the process was started without them.

    Otherwise the next file that is opened gets the number of stdout or stderr, and what a library
    prints is written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # `os.open` returns the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)


def _encoding(stream: Any) -> str:
    try:
        return codecs.lookup(getattr(stream, "encoding", None) or "ascii").name
    except LookupError:
        return "ascii"


class _Stream:
    """A text stream that escapes what its target cannot show.

    It has no attribute `buffer`, so that no library writes bytes to the target instead.

    Args:
        target: The stream to write to; `None` if the process has none.
    """

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self._target, name)

    @property
    def encoding(self) -> str:
        """Name of the encoding of the target."""
        return _encoding(self._target)

    def isatty(self) -> bool:
        """Return whether the target is a terminal."""
        try:
            return bool(self._target.isatty())
        except (AttributeError, OSError, ValueError):
            return False

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        shown = escaped(text, self._target)
        self._attempt("write", shown)
        return len(text)

    def flush(self) -> None:
        """Write what is kept in memory."""
        self._attempt("flush")

    def writelines(self, lines: Any) -> None:
        """Write some texts."""
        for line in lines:
            self.write(line)

    def forget_unwritten(self) -> None:
        """Drop the text that the target keeps in memory because it could not be written.

        Python would try to write it when the process ends, and change the exit code.
        """
        target = self._target
        if target is None:
            return
        try:
            target.flush()
        except (OSError, ValueError):
            with contextlib.suppress(Exception):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, target.fileno())
                os.close(nowhere)
                target.flush()

    def _attempt(self, method: str, *arguments: str) -> None:
        raise NotImplementedError


class _Results(_Stream):
    """The stream in the place of `sys.stdout`. It raises `OutputError`."""

    _failed: OSError | None = None

    def flush(self) -> None:
        """Write what is kept in memory. After a failure, do nothing: it has been reported."""
        if self._target is not None and self._failed is None:
            super().flush()

    def _attempt(self, method: str, *arguments: str) -> None:
        try:
            if self._failed is not None:
                raise self._failed
            if self._target is None:
                raise OSError(errno.EBADF, "it is closed")
            getattr(self._target, method)(*arguments)
        except OSError as error:
            self._failed = error
            raise OutputError(error) from error


class _Messages(_Stream):
    """The stream in the place of `sys.stderr`. It raises nothing."""

    def _attempt(self, method: str, *arguments: str) -> None:
        # ValueError: the target is closed.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            getattr(self._target, method)(*arguments)


def answers_of_worker() -> TextIO:
    """Prepare a process that answers its parent on stdout, and return the stream for the answers.

    What libraries and plugins print to stdout goes to stderr from now on. Ctrl-C in a terminal
    reaches all processes of a command; this one ignores it, and the parent ends it.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers
