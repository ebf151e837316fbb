"""Kernels for the CPU: compiled functions over arrays, which validate nothing."""

from numba.extending import register_jitable

from cnnforge_kernels import geometry

# Plain Python outside, inlined where compiled code calls them: one rule for both.
register_jitable(geometry.output_size)
register_jitable(geometry.padding_before)
