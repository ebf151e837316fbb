"""Call the function `make` of a callback or an augmentation, for its checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnnforge.errors import CnnforgeError
from cnnforge.plugin import AugmentationSpec, CallbackSpec


def make(
    spec: AugmentationSpec | CallbackSpec,
    argument: str | None,
    fits: Callable[[Any], bool],
    expected: str,
) -> Any:
    """Call `make` with an argument.

    Args:
        spec: Spec whose target is `make`.
        argument: Argument of `make`.
        fits: Function that tells whether `make` has returned an object of the right kind.
        expected: Kind of object that is right, for the message of the error.

    Returns:
        The object; or a string with the reason if `make` needs an argument.

    Raises:
        AssertionError: `make` refuses an argument, or returns something else.
    """
    try:
        made = spec.load()(argument)
    except (ValueError, CnnforgeError) as error:
        if argument is None:
            return f"not checked without an argument: {error}"
        raise AssertionError(f"make({argument!r}) fails: {error}") from error
    if not fits(made):
        raise AssertionError(
            f"make({argument!r}) returns a {type(made).__name__}, expected {expected}"
        )
    return made
