"""The steps of a program, and the error of a program that cannot be run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Activation = dict[str, Any]


class PlanError(ValueError):
    """A plan is damaged, foreign, of a newer format, or cannot be run.

    The message is one line with the reason.
    """


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a program.

    Attributes:
        kind: Kind of the operation, such as ``"convolution"``: a key of
            ``cnnforge_kernels.plan.kinds.KINDS``.
        inputs: Names of the values that the operation reads.
        output: Name of the value that it computes. It also names the step.
        options: Settings, as JSON values: numbers, strings, lists, dicts and ``None``.
        arrays: Weights by name, float32 (int64 for indices). Their layout is that of Keras.
    """

    kind: str
    inputs: tuple[str, ...]
    output: str
    options: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def activation(self) -> Activation | None:
        """The activation that the step applies to its result, or ``None``."""
        return self.options.get("activation")

    def changed(self, **changes: Any) -> Step:
        """Return a copy with other attributes or other options.

        Args:
            **changes: New attributes. Other names are options.
        """
        own = {name: changes.pop(name) for name in ("kind", "inputs", "output") if name in changes}
        arrays = {**self.arrays, **changes.pop("arrays", {})}
        return replace(self, **own, arrays=arrays, options={**self.options, **changes})
