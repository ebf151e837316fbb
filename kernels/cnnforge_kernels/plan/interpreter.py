"""Run a program in plain NumPy: simple and slow, the oracle of everything that is faster."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnforge_kernels.plan.kinds import KINDS
from cnnforge_kernels.plan.program import Program, filled


def interpret(program: Program, images: np.ndarray, dtype: Any = np.float32) -> Any:
    """Compute the outputs of a program in plain NumPy.

    Args:
        program: The program.
        images: (N, H, W, C), of any dtype.
        dtype: Dtype of the computation, float32 or float64.

    Returns:
        The outputs in the structure of the program, arrays (N, ...) of the dtype.
    """
    first, *others = program.steps
    values = {first.output: KINDS["input"].compute(first, [images.astype(dtype)])}
    for step in others:
        values[step.output] = KINDS[step.kind].compute(step, [values[name] for name in step.inputs])
    return filled(program.outputs, values)
