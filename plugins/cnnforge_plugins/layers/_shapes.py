"""Compute the output size of a convolution, for the shape functions of several ops."""

from __future__ import annotations

from numba.extending import register_jitable

from cnnforge_kernels.authoring import output_size


@register_jitable
def convolved_size(size: int, window: int, stride: int, dilation: int, same: bool) -> int:
    """Return the number of outputs of a convolution along one axis.

    Both Python code and compiled code call this function. The arguments are those of
    ``cnnforge_kernels.geometry.output_size``.

    Raises:
        ValueError: The window is larger than the inputs.
    """
    outputs = output_size(size, window, stride, dilation, same)
    if outputs == 0 and size > 0:
        # The kernels would return an empty array. Keras raises an error, so raise one here too.
        raise ValueError(
            "The convolution operation resulted in an empty output: the window is larger than "
            'the inputs. Use larger inputs, a smaller kernel_size or padding="same".'
        )
    return outputs
