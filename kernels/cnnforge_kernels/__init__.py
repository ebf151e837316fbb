"""Kernels in Numba, which need neither Keras nor TensorFlow.

Convolution, pooling, batch normalization and dropout, and their gradients, on NumPy arrays. Kernels
of your own start from ``cnnforge_kernels.authoring``.
"""

from cnnforge_kernels.launch.batch_norm import batch_normalization as batch_normalization
from cnnforge_kernels.launch.batch_norm import (
    batch_normalization_grads as batch_normalization_grads,
)
from cnnforge_kernels.launch.batch_norm import (
    batch_normalization_inference as batch_normalization_inference,
)
from cnnforge_kernels.launch.batch_norm import (
    batch_normalization_inference_grads as batch_normalization_inference_grads,
)
from cnnforge_kernels.launch.conv_block import conv_block as conv_block
from cnnforge_kernels.launch.conv_block import conv_block_grad_inputs as conv_block_grad_inputs
from cnnforge_kernels.launch.conv_block import conv_block_grad_weights as conv_block_grad_weights
from cnnforge_kernels.launch.convolution import conv2d as conv2d
from cnnforge_kernels.launch.convolution import conv2d_grad_inputs as conv2d_grad_inputs
from cnnforge_kernels.launch.convolution import conv2d_grad_weights as conv2d_grad_weights
from cnnforge_kernels.launch.depthwise import depthwise_conv2d as depthwise_conv2d
from cnnforge_kernels.launch.depthwise import (
    depthwise_conv2d_grad_inputs as depthwise_conv2d_grad_inputs,
)
from cnnforge_kernels.launch.depthwise import (
    depthwise_conv2d_grad_weights as depthwise_conv2d_grad_weights,
)
from cnnforge_kernels.launch.dropout import dropout as dropout
from cnnforge_kernels.launch.dropout import dropout_grad as dropout_grad
from cnnforge_kernels.launch.pooling import average_pool2d as average_pool2d
from cnnforge_kernels.launch.pooling import average_pool2d_grad as average_pool2d_grad
from cnnforge_kernels.launch.pooling import global_average_pool2d as global_average_pool2d
from cnnforge_kernels.launch.pooling import global_average_pool2d_grad as global_average_pool2d_grad
from cnnforge_kernels.launch.pooling import max_pool2d as max_pool2d
from cnnforge_kernels.launch.pooling import max_pool2d_grad as max_pool2d_grad
