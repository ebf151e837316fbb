"""Compiling kernels for a device, keeping them, and launching them."""
