"""Compile kernels for a device, keep them on disk, and launch them."""
