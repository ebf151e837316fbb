"""The errors that a user sees as one line, without a traceback, and their exit codes."""

from __future__ import annotations

import traceback

__all__ = [
    "AmbiguousNameError",
    "CnnforgeError",
    "DataError",
    "PluginError",
    "RunError",
    "UnknownNameError",
    "UsageError",
    "one_line",
]

# A traceback that ends in one of these was caused further up, in a plugin's own file.
_MACHINERY = frozenset({"cnnforge", "importlib", "pkgutil", "pluggy"})


class CnnforgeError(Exception):
    """Something failed in a way that its message explains.

    The command line prints the message as one line and ends with `exit_code`. A message says
    what was received, what was expected and how to fix it.

    Attributes:
        exit_code: The status with which the command line ends.
    """

    exit_code: int = 1


class RunError(CnnforgeError):
    """A run could not be continued, read or written."""


class DataError(CnnforgeError):
    """Data could not be read, or nothing usable was found in it."""


class UsageError(CnnforgeError):
    """Something was asked for wrongly: an option, a name, a file, a configuration."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that no loaded plugin declares."""


class AmbiguousNameError(UsageError):
    """A short name that several plugins declare."""


class PluginError(UsageError):
    """A plugin that could not be loaded, or a spec whose target could not."""


def one_line(error: BaseException) -> str:
    """Describe an exception in one line: its type, its message, and where it was raised.

    Args:
        error: Any exception. The location is left out where there is none to tell, and for a
            `CnnforgeError`, whose message stands for itself.

    Returns:
        For instance `"ZeroDivisionError: division by zero (/home/me/mine.py:3)"`.
    """
    message = " ".join(str(error).split())
    if isinstance(error, CnnforgeError):
        return message
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    # A syntax error names its place by itself, and its traceback ends where it was compiled.
    if not isinstance(error, SyntaxError):
        places = [
            f" ({frame.f_code.co_filename}:{line})"
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__", "").partition(".")[0] not in _MACHINERY
        ]
        text += "".join(places[-1:])
    return text
