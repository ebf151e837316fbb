"""Kernels for the CPU: compiled functions over arrays, which validate nothing."""

from numba.extending import register_jitable

from cnnforge_kernels import geometry

# Python and compiled code call the same functions, so that there is one rule.
register_jitable(geometry.output_size)
register_jitable(geometry.padding_before)
