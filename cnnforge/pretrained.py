"""Describe pretrained weights of a model: what they were trained on, and where they come from.

Importing this module does not import Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedWeights:
    """Pretrained weights of a model, which `ModelSpec.weights` names.

    Args:
        assign: Function `assign(model, argument)` that sets all weights except those of the output
            layer. `argument` is the text after the colon in `NAME:ARGUMENT`, or `None`. It raises a
            `cnnforge.errors.UsageError` if the weights cannot be had.
        data: Name of the data that they were trained on.
        installed: Function that returns whether `assign` works without a network.
        by_default: Whether the model starts from these weights if they are installed and the user
            does not choose. If false, the user has to ask for them.
        install: Command that installs the weights; empty if `assign` downloads them.
        arguments: Arguments of the model, as in `NAME:ARGUMENT`, with which it has these weights.
            `None`: all, and also a model without an argument.
    """

    assign: Callable[[Any, str | None], None]
    data: str = "ImageNet"
    installed: Callable[[], bool] = lambda: False
    by_default: bool = False
    install: str = ""
    arguments: tuple[str, ...] | None = None

    def suit(self, argument: str) -> bool:
        """Return whether the weights are for a model with an argument, `""` if it has none."""
        return self.arguments is None or argument in self.arguments
