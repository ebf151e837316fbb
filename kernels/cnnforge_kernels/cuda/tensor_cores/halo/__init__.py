"""Tensor-core convolutions without strides, which keep a tile with its halo in shared memory."""
