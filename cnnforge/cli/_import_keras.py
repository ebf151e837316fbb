"""Import Keras and its backend without the messages that they print while they are imported."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from cnnforge.cli import _ctrl_c


def import_keras() -> None:
    """Import Keras with its backend, and hold back what the backend writes to stderr meanwhile.

    `TF_CPP_MIN_LOG_LEVEL` does not reach what TensorFlow logs before its logging is set up: four
    lines or more on a machine without a graphics card. If the import fails, they are shown.

    From here on, machine code may run for seconds without a return to Python: see `_ctrl_c`.
    """
    _ctrl_c.watch()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Torch brings an OpenMP of its own, which reads these when it is loaded. If torch's threads
    # spin, they take the cores from the kernels: on 2 busy cores a convolution took 16 ms, not 1.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _show_log()
    if "keras" in sys.modules:
        return
    with _held_back_stderr():
        keras = import_module("keras")
        if keras.backend.backend() == "tensorflow":
            # The rest of the lines is printed when TensorFlow looks for devices.
            import_module("tensorflow").config.list_physical_devices()
        else:
            _keep_tensorflow_out()


class _MessageHandler(logging.Handler):
    """Prints the log of the library as messages of the program."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line on stderr."""
        from cnnforge.cli import _render

        _render.message(record.getMessage())


def _show_log() -> None:
    log = logging.getLogger("cnnforge")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _MessageHandler) for handler in log.handlers):
        log.addHandler(_MessageHandler())


def _keep_tensorflow_out() -> None:
    """Let Keras under another backend use TensorFlow only if it has been imported already.

    For every layer that it saves, Keras asks whether an object is one of TensorFlow's, and imports
    TensorFlow to find out. That takes three seconds, and if nobody has imported TensorFlow before,
    the answer is always no.
    """
    try:
        lazy: Any = import_module("keras.src.utils.module_utils").tensorflow
        kind = type(lazy)
        available = kind.available.fget
    except (ImportError, AttributeError):
        # Another version of Keras, which may import TensorFlow: that costs time and no more.
        return
    lazy.__class__ = type(
        kind.__name__,
        (kind,),
        {"available": property(lambda self: "tensorflow" in sys.modules and available(self))},
    )


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    try:
        stderr = sys.stderr.fileno()
        saved = os.dup(stderr)
    except (OSError, ValueError, AttributeError):
        # The caller has replaced stderr by an object without a file descriptor.
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
