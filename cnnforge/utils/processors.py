"""Count the processors that this process may use."""

from __future__ import annotations

import os

THREAD_VARIABLES = ("NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
"""Environment variables that limit the threads of a process: of Numba, TensorFlow and OpenMP."""


def usable_processors() -> int:
    """Return the number of logical processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
