"""All functions with which you can write your own CPU kernels in Numba, for instance in a plugin.

Plugins import only from this module. Other modules of ``cnnforge_kernels`` may move without notice.

* ``cached_njit``, ``cached_cfunc``, ``kernel_family`` and ``run_kernel`` compile and run kernels.
* ``address_of``, ``load_float``, ``aligned_floats`` and others read and write memory from compiled
  code.
* ``vector_*``, ``index_*`` and ``tile_*`` are SIMD functions for Numba code. ``vector_*`` and
  ``index_*`` work on one register, of float32 or int32 values. ``tile_*`` works on a tuple of
  registers. Numbers of lanes and other shapes must be literal integers.
* ``parallel_for`` runs a function for many indices on all threads. ``weighted_sum``,
  ``product_sum`` and ``dot`` are loops over rows of arrays with SIMD instructions.
* ``Loop``, ``fma``, ``splat`` and others emit LLVM code, for your own Numba intrinsics.
* ``conv2d_forward``, ``conv2d_grad_inputs`` and others compute cnnforge's own ops. They are Numba
  functions over arrays, which write to their last arguments and do not check arguments.

Example:
    Double the values of an array, eight at a time, on all threads:

    >>> import numpy as np
    >>> from numba import carray
    >>> from cnnforge_kernels.authoring import KERNEL_SIGNATURE, address_of, cached_cfunc
    >>> from cnnforge_kernels.authoring import cached_njit, kernel_family, run_kernel
    >>> from cnnforge_kernels.authoring import vector_add, vector_load, vector_store
    >>> @kernel_family(1)
    ... def DOUBLE(number):
    ...     @cached_cfunc(KERNEL_SIGNATURE)
    ...     def kernel(args, begin, end):
    ...         block = carray(args, 2)
    ...         for task in range(begin, end):
    ...             value = vector_load(block[0] + 32 * task, 8, 8)
    ...             vector_store(vector_add(value, value), block[1] + 32 * task, 8)
    ...     return kernel
    >>> @cached_njit()
    ... def double(inputs, outputs):
    ...     args = np.array([address_of(inputs), address_of(outputs)])
    ...     run_kernel(DOUBLE, args, inputs.size // 8, 1)
    >>> inputs = np.arange(16, dtype=np.float32)
    >>> outputs = np.empty_like(inputs)
    >>> double(inputs, outputs)
    >>> outputs[-4:]
    array([24., 26., 28., 30.], dtype=float32)
"""

from __future__ import annotations

from cnnforge_kernels.cpu.conv.conv2d import (
    conv2d_forward,
    conv2d_grad_inputs,
    conv2d_grad_weights,
)
from cnnforge_kernels.cpu.conv.conv_block import (
    conv_block_forward,
    conv_block_grad_inputs,
    conv_block_grad_weights,
)
from cnnforge_kernels.cpu.conv.dense import dense_forward
from cnnforge_kernels.cpu.conv.dense_gradients import (
    dense_grad_inputs,
    dense_grad_weights,
)
from cnnforge_kernels.cpu.depthwise.depthwise import (
    depthwise_conv2d_forward,
    depthwise_conv2d_grad_inputs,
    depthwise_conv2d_grad_weights,
)
from cnnforge_kernels.cpu.dropout import (
    dropout_forward,
    dropout_grad_inputs,
)
from cnnforge_kernels.cpu.norm.inference import (
    batch_norm_inference_forward,
    batch_norm_inference_grad_inputs,
    batch_norm_inference_grad_parameters,
)
from cnnforge_kernels.cpu.norm.training import (
    BATCH_NORM_ACTIVATIONS,
    batch_moments,
    batch_moments_and_averages,
    batch_norm_forward,
    batch_norm_grads,
)
from cnnforge_kernels.cpu.pooling.global_average import (
    global_average_pool2d_forward,
    global_average_pool2d_grad_inputs,
)
from cnnforge_kernels.cpu.pooling.pooling import (
    average_pool2d_forward,
    average_pool2d_grad_inputs,
    max_pool2d_forward,
    max_pool2d_grad_inputs,
)
from cnnforge_kernels.cpu.runtime.compiled import (
    KERNEL_SIGNATURE,
    aligned_floats,
    cached_cfunc,
    cached_njit,
    call_once,
    kernel_address,
    kernel_family,
    vector_lanes,
    vector_registers,
)
from cnnforge_kernels.cpu.runtime.llvm import (
    F32,
    I8,
    I32,
    I64,
    Loop,
    Vector,
    fma,
    lane_mask,
    literals,
    masked_load,
    masked_store,
    pointer_to,
    splat,
    tile_type,
    unpack,
    zeros,
)
from cnnforge_kernels.cpu.runtime.memory import (
    address_of,
    call_kernel,
    floats_at,
    load_int64,
    store_int64,
    words_at,
)
from cnnforge_kernels.cpu.runtime.parallel import run_kernel
from cnnforge_kernels.cpu.runtime.parallel_for import parallel_for
from cnnforge_kernels.cpu.simd.rows import (
    dot,
    product_sum,
    weighted_sum,
)
from cnnforge_kernels.cpu.simd.tiles import (
    tile_accumulate,
    tile_broadcast,
    tile_load,
    tile_relu,
    tile_store,
)
from cnnforge_kernels.cpu.simd.vectors import (
    index_add,
    index_load,
    index_ramp,
    index_splat,
    index_store,
    index_where_equal,
    load_byte,
    load_float,
    store_float,
    vector_add,
    vector_divide,
    vector_load,
    vector_maximum,
    vector_multiply,
    vector_multiply_add,
    vector_relu,
    vector_splat,
    vector_store,
    vector_subtract,
    vector_twice,
    vector_where_equal,
    vector_where_not,
    vector_where_positive,
)
from cnnforge_kernels.geometry import (
    output_size,
    padding_before,
)

__all__ = [
    "BATCH_NORM_ACTIVATIONS",
    "F32",
    "I8",
    "I32",
    "I64",
    "KERNEL_SIGNATURE",
    "Loop",
    "Vector",
    "address_of",
    "aligned_floats",
    "average_pool2d_forward",
    "average_pool2d_grad_inputs",
    "batch_moments",
    "batch_moments_and_averages",
    "batch_norm_forward",
    "batch_norm_grads",
    "batch_norm_inference_forward",
    "batch_norm_inference_grad_inputs",
    "batch_norm_inference_grad_parameters",
    "cached_cfunc",
    "cached_njit",
    "call_kernel",
    "call_once",
    "conv2d_forward",
    "conv2d_grad_inputs",
    "conv2d_grad_weights",
    "conv_block_forward",
    "conv_block_grad_inputs",
    "conv_block_grad_weights",
    "dense_forward",
    "dense_grad_inputs",
    "dense_grad_weights",
    "depthwise_conv2d_forward",
    "depthwise_conv2d_grad_inputs",
    "depthwise_conv2d_grad_weights",
    "dot",
    "dropout_forward",
    "dropout_grad_inputs",
    "floats_at",
    "fma",
    "global_average_pool2d_forward",
    "global_average_pool2d_grad_inputs",
    "index_add",
    "index_load",
    "index_ramp",
    "index_splat",
    "index_store",
    "index_where_equal",
    "kernel_address",
    "kernel_family",
    "lane_mask",
    "literals",
    "load_byte",
    "load_float",
    "load_int64",
    "masked_load",
    "masked_store",
    "max_pool2d_forward",
    "max_pool2d_grad_inputs",
    "output_size",
    "padding_before",
    "parallel_for",
    "pointer_to",
    "product_sum",
    "run_kernel",
    "splat",
    "store_float",
    "store_int64",
    "tile_accumulate",
    "tile_broadcast",
    "tile_load",
    "tile_relu",
    "tile_store",
    "tile_type",
    "unpack",
    "vector_add",
    "vector_divide",
    "vector_lanes",
    "vector_load",
    "vector_maximum",
    "vector_multiply",
    "vector_multiply_add",
    "vector_registers",
    "vector_relu",
    "vector_splat",
    "vector_store",
    "vector_subtract",
    "vector_twice",
    "vector_where_equal",
    "vector_where_not",
    "vector_where_positive",
    "weighted_sum",
    "words_at",
    "zeros",
]
