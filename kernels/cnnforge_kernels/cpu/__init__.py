"""Kernels for the CPU: compiled functions that compute with arrays and do not check arguments."""

from numba.extending import register_jitable

from cnnforge_kernels import geometry

# Let compiled code call these Python functions, so that Python code and compiled code use the same
# rules for sizes.
register_jitable(geometry.output_size)
register_jitable(geometry.padding_before)
