"""Compute batch normalization on the CPU."""
