"""All kinds of steps: functions for the shape of the result, and for the result in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cnnforge_kernels.plan.kinds import convolutions, elementwise, foreign, layout, pools
from cnnforge_kernels.plan.steps import Shape, Step


class Kind(NamedTuple):
    """One kind of step.

    Attributes:
        shape: Function from a step and the shapes of its inputs to the shape of its result, all
            without the batch dimension. It raises ``ValueError`` if the step is not possible.
        compute: Function from a step and its inputs to its result, all with the batch dimension.
            The result has the dtype of the inputs, float32 or float64. It may be a view.
    """

    shape: Callable[[Step, list[Shape]], Shape]
    compute: Callable[[Step, list[np.ndarray]], np.ndarray]


KINDS: dict[str, Kind] = {
    name: Kind(shape, compute)
    for module in (convolutions, elementwise, foreign, layout, pools)
    for name, (shape, compute) in module.KINDS.items()
}
"""The kinds of steps by name."""
