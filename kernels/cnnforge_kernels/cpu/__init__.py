"""Kernels for the CPU: compiled functions over arrays, which check no arguments."""

from numba.extending import register_jitable

from cnnforge_kernels import geometry

# Let compiled code call these Python functions, so that sizes are computed in one place.
register_jitable(geometry.output_size)
register_jitable(geometry.padding_before)
