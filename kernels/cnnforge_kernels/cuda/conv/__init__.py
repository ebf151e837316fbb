"""Convolution, depthwise convolution and their fusion with pooling on CUDA devices."""
