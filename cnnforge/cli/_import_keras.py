"""Import Keras and its backend, and suppress the messages that the import prints."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

from cnnforge.cli import _render, _settings
from cnnforge.cli._native_code import before_native_code
from cnnforge.errors import CnnforgeError, UsageError, one_line
from cnnforge.utils.held_back import held_back_stderr


def import_keras(*, any_backend: bool = False) -> _settings.KerasSettings:
    """Import Keras with its backend, and suppress messages that the import writes to stderr.

    Print a line for each setting of Keras that cnnforge changes.

    `TF_CPP_MIN_LOG_LEVEL` has no effect on messages that TensorFlow logs before it has set up its
    logging: four lines or more on a machine without a GPU. So stderr is redirected during the
    import. If the import fails, the messages are printed.

    Args:
        any_backend: Whether to use TensorFlow if the user asks for a backend that cannot be used.

    Returns:
        The settings that were changed, also if Keras had been imported before.

    Raises:
        UsageError: The user asks for a backend that cannot be used, and `any_backend` is false.
        CnnforgeError: Keras or its backend cannot be imported.
    """
    before_native_code()
    # Errors of TensorFlow are exceptions. Of its messages at the level of errors, level 2, some are
    # none: without AVX-512 it says that the gradient of UpSampling2D has no oneDNN kernel.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # PyTorch loads its own OpenMP, which reads these variables when it is loaded. Spinning OpenMP
    # threads take CPU time from the kernels: on 2 busy cores a convolution took 16 ms instead of 1.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    settings = _settings.keras_settings()
    if "keras" in sys.modules:
        return settings
    if settings.error and not any_backend:
        raise UsageError(settings.error)
    for note in settings.notes:
        _render.message(f"note: {note}")
    _settings.before_import(settings)
    try:
        _import(settings.backend)
    except Exception as error:
        raise CnnforgeError(
            f"Keras cannot be imported with the backend {settings.backend}: {one_line(error)}; "
            "install cnnforge again in a new environment, or set KERAS_BACKEND to another backend"
        ) from error
    _settings.after_import()
    return settings


def _import(backend: str) -> None:
    from cnnforge.reporting.drawing import import_matplotlib

    with held_back_stderr(), _without_collections(), _without("sklearn"):
        # If Matplotlib is broken, Keras may do without it, and the figures are left out.
        with suppress(Exception):
            import_matplotlib()
        import_module("keras")
        if backend == "tensorflow":
            # TensorFlow prints more messages when it first looks for devices. So let it look for
            # devices here, while messages are suppressed.
            import_module("tensorflow").config.list_physical_devices()
        else:
            from cnnforge.utils.keras_graph import keep_tensorflow_out

            keep_tensorflow_out()


@contextmanager
def _without_collections() -> Iterator[None]:
    """Run no collection of garbage during an import, and do not look at its objects later.

    An import makes a million objects that stay. To look at them again and again takes a fifth of
    the time that the import of TensorFlow takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def _without(optional: str) -> Iterator[None]:
    """Hide a package that Keras imports if it is installed, unless it is imported already.

    Keras has wrapper classes for scikit-learn. A command needs none of them, and importing
    scikit-learn and SciPy takes a fifth of the time of the whole import.
    """
    if optional in sys.modules:
        yield
        return
    # The import of a module with this value raises a ModuleNotFoundError.
    sys.modules[optional] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules[optional]
