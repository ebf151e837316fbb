"""Convolution on the CPU, alone and fused with bias, ReLU and pooling."""
