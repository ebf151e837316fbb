"""Compile kernels, keep them on disk, and run them on threads."""
