"""Hold back messages that libraries write to stderr."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress


@contextmanager
def held_back_stderr() -> Iterator[None]:
    """Suppress all that is written to stderr in the block, also by code that is not Python.

    If the block raises an error, the messages are printed.
    """
    with ExitStack() as stack:
        try:
            stderr = sys.stderr.fileno()
            saved = os.dup(stderr)
            stack.callback(os.close, saved)
            held = stack.enter_context(tempfile.TemporaryFile())
        except (OSError, ValueError, AttributeError):
            # `sys.stderr` was replaced by an object without a file descriptor, or no folder for
            # temporary files exists, so messages cannot be suppressed.
            yield
            return
        sys.stderr.flush()
        os.dup2(held.fileno(), stderr)
        try:
            yield
        except Exception:
            sys.stderr.flush()
            held.seek(0)
            with suppress(OSError):
                os.write(saved, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, stderr)
