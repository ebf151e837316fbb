"""Keras layers that compute with the kernels of ``cnnforge_kernels``."""
