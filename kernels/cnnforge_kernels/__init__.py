"""Fast functions for convolutional networks, written in Numba; they need no Keras or TensorFlow.

The functions compute convolution, pooling, batch normalization and dropout, and their gradients, on
NumPy arrays or on CUDA arrays. To write your own kernel, use ``cnnforge_kernels.authoring``.
"""

from cnnforge_kernels.launch.batch_norm import (
    batch_normalization,
    batch_normalization_grads,
    batch_normalization_inference,
    batch_normalization_inference_grads,
)
from cnnforge_kernels.launch.conv_block import (
    conv_block,
    conv_block_grad_inputs,
    conv_block_grad_weights,
)
from cnnforge_kernels.launch.convolution import conv2d, conv2d_grad_inputs, conv2d_grad_weights
from cnnforge_kernels.launch.depthwise import (
    depthwise_conv2d,
    depthwise_conv2d_grad_inputs,
    depthwise_conv2d_grad_weights,
)
from cnnforge_kernels.launch.dropout import dropout, dropout_grad
from cnnforge_kernels.launch.pooling import (
    average_pool2d,
    average_pool2d_grad,
    global_average_pool2d,
    global_average_pool2d_grad,
    max_pool2d,
    max_pool2d_grad,
)

__all__ = [
    "average_pool2d",
    "average_pool2d_grad",
    "batch_normalization",
    "batch_normalization_grads",
    "batch_normalization_inference",
    "batch_normalization_inference_grads",
    "conv2d",
    "conv2d_grad_inputs",
    "conv2d_grad_weights",
    "conv_block",
    "conv_block_grad_inputs",
    "conv_block_grad_weights",
    "depthwise_conv2d",
    "depthwise_conv2d_grad_inputs",
    "depthwise_conv2d_grad_weights",
    "dropout",
    "dropout_grad",
    "global_average_pool2d",
    "global_average_pool2d_grad",
    "max_pool2d",
    "max_pool2d_grad",
]
