"""Run trained networks with NumPy and Numba alone: inference plans.

A ``Program`` is a trained network as plain data: a list of ``Step`` objects. ``optimize`` merges
steps, ``write`` and ``read`` store a program in a file, and a ``Plan`` runs it on the kernels.
``interpret`` runs it in plain NumPy, to check the others.
"""

from cnnforge_kernels.plan.files import read, write
from cnnforge_kernels.plan.fusion import optimize
from cnnforge_kernels.plan.interpreter import interpret
from cnnforge_kernels.plan.kinds.foreign import provide_op
from cnnforge_kernels.plan.plan import Plan
from cnnforge_kernels.plan.program import Program
from cnnforge_kernels.plan.steps import PlanError, Step

__all__ = [
    "Plan",
    "PlanError",
    "Program",
    "Step",
    "interpret",
    "optimize",
    "provide_op",
    "read",
    "write",
]
