"""Tests that run kernels in Numba's CUDA simulator.

The simulator must be chosen before Numba is imported, and the compiler is gone then: these tests
are a pytest run of their own, which ``test_simulator.py`` starts.
"""

import os

collect_ignore_glob = [] if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else ["test_*.py"]
