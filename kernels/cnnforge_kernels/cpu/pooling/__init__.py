"""Compute max, average and global average pooling on the CPU."""
