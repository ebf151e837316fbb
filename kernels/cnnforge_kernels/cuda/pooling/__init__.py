"""Pooling on CUDA devices."""
