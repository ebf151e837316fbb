"""Catch what code prints to stdout, also native code."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def captured(found: list[str]) -> Iterator[None]:
    """Catch what is printed to stdout within the context, also by native code.

    Args:
        found: A list, to which the text is added at the end of the context.
    """
    with tempfile.TemporaryFile() as file:
        _flush()
        stdout = os.dup(1)
        os.dup2(file.fileno(), 1)
        python, sys.stdout = sys.stdout, open(1, "w", closefd=False, errors="replace")  # noqa: SIM115
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stdout = python
            _flush()
            os.dup2(stdout, 1)
            os.close(stdout)
            file.seek(0)
            found.append(file.read().decode(errors="replace"))


def _flush() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
