"""Depthwise convolution on the CPU."""
