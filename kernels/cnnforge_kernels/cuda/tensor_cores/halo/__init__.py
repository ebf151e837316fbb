"""Tensor-core convolutions without strides; blocks keep parts of images in shared memory."""
