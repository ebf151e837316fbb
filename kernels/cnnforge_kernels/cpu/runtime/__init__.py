"""Compiling kernels, keeping them on disk, and running them on threads."""
