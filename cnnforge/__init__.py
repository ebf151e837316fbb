"""Train and run convolutional networks from the command line, with plugins and Numba kernels."""
