"""Batch normalization on the CPU."""
