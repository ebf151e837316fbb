"""Tests that run kernels in Numba's CUDA simulator.

The simulator must be selected before Numba is imported, and it replaces the compiler. So
``test_simulator.py`` starts these tests in a separate pytest run.
"""

import os

collect_ignore_glob = [] if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else ["test_*.py"]
