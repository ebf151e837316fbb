"""Importing Keras and its backend without what they have to say about it."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


def import_keras() -> None:
    """Import Keras with its backend; hold back what the backend's C++ code writes to stderr.

    `TF_CPP_MIN_LOG_LEVEL` does not reach what TensorFlow logs before its logging is set up: four
    lines or more on a machine without a graphics card. Where the import fails they are shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Torch brings an OpenMP of its own, which reads these when it is loaded. Threads of torch's
    # that spin take the cores from the kernels': on 2 busy cores a convolution took 16 ms, not 1.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _show_log()
    if "keras" in sys.modules:
        return
    with _held_back_stderr():
        keras = import_module("keras")
        if keras.backend.backend() == "tensorflow":
            # Looking for devices is what the rest of the lines is about.
            import_module("tensorflow").config.list_physical_devices()
        else:
            from cnnforge.utils.keras_graph import keep_tensorflow_out

            keep_tensorflow_out()


class _Shown(logging.Handler):
    """Prints what the library has to say while it works as messages of the program."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line on stderr."""
        from cnnforge.cli import _render

        _render.message(record.getMessage())


def _show_log() -> None:
    log = logging.getLogger("cnnforge")
    log.setLevel(logging.INFO)
    if not any(isinstance(it, _Shown) for it in log.handlers):
        log.addHandler(_Shown())


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    try:
        stderr = sys.stderr.fileno()
        saved = os.dup(stderr)
    except (OSError, ValueError, AttributeError):
        # Somebody has replaced stderr by something that is no file.
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), stderr)
        try:
            yield
        except Exception:
            sys.stderr.flush()
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, stderr)
            os.close(saved)
