"""Keep whether the user trusts the author of the model files that are opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnforge.errors import RunError
from cnnforge.utils.names import printable

TRUST = "if you trust its author, add --trust-model (in Python: trust_model=True)"
"""Advice for messages about a file that is refused."""

# One value for the whole process: a server opens its model in another thread than it was started.
_trusted = [False]


class RefusedModelError(RunError):
    """A model file contains something that cnnforge does not open.

    Args:
        path: The file.
        found: Clause with the member of the file, and the thing that was found in it.
        advice: Clause that tells how to go on.
    """

    def __init__(self, path: Path, found: str, advice: str = TRUST) -> None:
        super().__init__(f"{path} is refused: {printable(found)}; {advice}")


def models_are_trusted() -> bool:
    """Return whether model files are opened without checks."""
    return _trusted[0]


@contextmanager
def trusting_models(trust: bool = True) -> Iterator[None]:
    """Open model files without checks within the context, also in other threads.

    Args:
        trust: Whether to do so; if false, nothing changes.
    """
    before = _trusted[0]
    _trusted[0] = before or trust
    try:
        yield
    finally:
        _trusted[0] = before
