"""Prepare the program for code that runs for seconds outside Python, and for log messages."""

from __future__ import annotations

import logging

from cnnforge.cli import _ctrl_c, _render


def before_native_code() -> None:
    """React to a Ctrl-C also while native code runs, and print what cnnforge logs on stderr."""
    # Native code may run for seconds, in which Python cannot react to a Ctrl-C. This starts a
    # thread that can.
    _ctrl_c.watch()
    _show_log()


class _MessageHandler(logging.Handler):
    """A logging handler that prints the log records of cnnforge on stderr.

    A warning begins with `warning:`. Other records have no prefix.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line on stderr."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        _render.message(prefix + record.getMessage())


def _show_log() -> None:
    log = logging.getLogger("cnnforge")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _MessageHandler) for handler in log.handlers):
        log.addHandler(_MessageHandler())
