"""Numba kernels of convolutional networks: NumPy arrays in, NumPy arrays out."""
