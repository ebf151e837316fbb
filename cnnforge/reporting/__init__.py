"""Figures of runs and benchmarks."""
