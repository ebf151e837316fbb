"""Import Keras and its backend, and suppress the messages that the import prints."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from cnnforge.cli import _ctrl_c


def import_keras() -> None:
    """Import Keras with its backend, and suppress messages that the import writes to stderr.

    `TF_CPP_MIN_LOG_LEVEL` has no effect on messages that TensorFlow logs before it has set up its
    logging: four lines or more on a machine without a GPU. So stderr is redirected during the
    import. If the import fails, the messages are printed.
    """
    # From now on, native code may run for seconds, in which Python cannot react to a Ctrl-C. This
    # starts a thread that can.
    _ctrl_c.watch()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # PyTorch loads its own OpenMP, which reads these variables when it is loaded. Spinning OpenMP
    # threads take CPU time from the kernels: on 2 busy cores a convolution took 16 ms instead of 1.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _show_log()
    if "keras" in sys.modules:
        return
    with _held_back_stderr():
        keras = import_module("keras")
        if keras.backend.backend() == "tensorflow":
            # TensorFlow prints more messages when it first looks for devices. So let it look for
            # devices here, while messages are suppressed.
            import_module("tensorflow").config.list_physical_devices()
        else:
            from cnnforge.utils.keras_graph import keep_tensorflow_out

            keep_tensorflow_out()


class _MessageHandler(logging.Handler):
    """A logging handler that prints the log records of cnnforge on stderr, without a prefix."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line on stderr."""
        from cnnforge.cli import _render

        _render.message(record.getMessage())


def _show_log() -> None:
    log = logging.getLogger("cnnforge")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _MessageHandler) for handler in log.handlers):
        log.addHandler(_MessageHandler())


@contextmanager
def _held_back_stderr() -> Iterator[None]:
    try:
        stderr = sys.stderr.fileno()
        saved = os.dup(stderr)
    except (OSError, ValueError, AttributeError):
        # `sys.stderr` was replaced by an object without a file descriptor, so messages cannot be
        # suppressed.
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
