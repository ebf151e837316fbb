"""Compile the CPU kernels, keep them on disk, and run them on several threads."""
