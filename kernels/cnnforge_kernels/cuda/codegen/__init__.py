"""Tools to write CUDA kernels in Python: Numba's compiler, PTX, and the simulator."""
