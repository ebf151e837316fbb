"""Prepare the program for code that runs for seconds outside Python, and for log messages."""

from __future__ import annotations

import logging
import threading

from cnnforge.cli import _ctrl_c, _render
from cnnforge.errors import CnnforgeError
from cnnforge.utils.processors import usable_processors


def before_native_code() -> None:
    """React to a Ctrl-C also while native code runs, and print what cnnforge logs on stderr.

    Raises:
        CnnforgeError: No thread can be started.
    """
    _check_threads()
    # Native code may run for seconds, in which Python cannot react to a Ctrl-C. This starts a
    # thread that can.
    _ctrl_c.watch()
    _show_log()


def _check_threads() -> None:
    """Start some threads and end them. TensorFlow would end the process without a message."""
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(usable_processors() + 2)]
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise CnnforgeError(
            f"this user may start no further thread, and {len(threads)} are needed: end other "
            "programs, or raise the limit of 'ulimit -u' or of the container"
        ) from error
    finally:
        end.set()
        for thread in started:
            thread.join()


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
