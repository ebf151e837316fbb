"""Convolution and pooling kernels for CUDA devices, compiled by numba-cuda.

Importing any of these modules needs neither a device nor a driver nor numba-cuda; using a kernel
without them raises ``CudaUnavailableError``.
"""
