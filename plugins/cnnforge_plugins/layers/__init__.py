"""Keras layers that are computed by the kernels of ``cnnforge_kernels``."""
