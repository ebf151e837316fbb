"""Convolution and pooling kernels for CUDA devices, compiled by numba-cuda.

Importing these modules needs neither a device nor a driver nor numba-cuda. Running a kernel needs
all three, and raises ``CudaUnavailableError`` if one of them is missing.
"""
