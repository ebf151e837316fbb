"""Define the errors that the command line prints as one line without a traceback."""

from __future__ import annotations

import re
import sys
import traceback

__all__ = [
    "AmbiguousNameError",
    "CnnforgeError",
    "DataError",
    "NotFiniteError",
    "PluginError",
    "RunError",
    "UnknownNameError",
    "UsageError",
    "WorkerError",
    "message_of",
    "one_line",
    "place_of",
]

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# `one_line` shows where an error was raised, which should be a line of a plugin. It skips the files
# of these packages and of Python itself, and shows the last file of the traceback outside of them.
_MACHINERY = sys.stdlib_module_names | {
    *("cnnforge", "keras", "numba", "pluggy", "tensorflow", "torch")
}


class CnnforgeError(Exception):
    """An error with a message that explains it to the user.

    The command line prints the message as one line and ends with `exit_code`. A message says what
    was received, what was expected, and how the user can fix the error.

    Attributes:
        exit_code: Exit code of the command line.
    """

    exit_code: int = 1


class NotFiniteError(CnnforgeError):
    """Training gave a loss or a weight that is not a finite number."""

    exit_code = 3


class RunError(CnnforgeError):
    """A run could not be resumed, read or written."""


class DataError(CnnforgeError):
    """Data could not be read, or nothing usable was found in it."""


class UsageError(CnnforgeError):
    """Wrong input from the user: an option, a name, a file or a configuration.

    Attributes:
        correction: A wrong word of the input and the word that is probably meant. The command line
            prints the command with the latter. `None` without such a word.
    """

    exit_code = 2

    def __init__(self, *args: object, correction: tuple[str, str] | None = None) -> None:
        super().__init__(*args)
        self.correction = correction


class WorkerError(CnnforgeError):
    """Another process that takes part in a training did not start, or has ended."""

    exit_code = 4


class UnknownNameError(UsageError):
    """No loaded plugin declares the name."""


class AmbiguousNameError(UsageError):
    """Several plugins declare the short name."""


class PluginError(UsageError):
    """A plugin, or an object that it declares, could not be loaded or does not work."""


def message_of(error: BaseException) -> str:
    """Return the message of an exception in one line, or the name of its type if it has no message.

    Args:
        error: Any exception.
    """
    return _plain(error) or type(error).__name__


def one_line(error: BaseException) -> str:
    """Describe an exception in one line: its type, its message, and where it was raised.

    Args:
        error: Any exception. The location is omitted if it is unknown. The type and the location
            of a `CnnforgeError` are omitted, since its message explains the error.

    Returns:
        For instance `"ZeroDivisionError: division by zero (/home/me/mine.py:3)"`.
    """
    message = _plain(error)
    if isinstance(error, CnnforgeError):
        return message
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    # The message of a syntax error already contains the file and the line, so do not add them.
    return text if isinstance(error, SyntaxError) else text + place_of(error)


def _plain(error: BaseException) -> str:
    # Keras and Numba print parts of their messages in bold.
    return " ".join(_COLOURS.sub("", str(error)).split())


def place_of(error: BaseException) -> str:
    """Return where an exception was raised, as the end of a message; "" if this is unknown.

    Args:
        error: Any exception.

    Returns:
        For instance `" (/home/me/mine.py:3)"`.
    """
    places = [
        f" ({frame.f_code.co_filename}:{line})"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _MACHINERY
    ]
    return "".join(places[-1:])
