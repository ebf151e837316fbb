"""Allocate the results of a public function, and call its kernel function.

A public function checks its arguments and makes a ``Problem`` of them. Then it calls one of the
three methods of the ``Problem``, with its kernel function: ``forward`` computes the outputs of an
op, ``grad_inputs`` and ``grad_weights`` compute the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnnforge_kernels import arrays
from cnnforge_kernels.launch.arguments import Shape


class Problem(NamedTuple):
    """The shapes, options and stream of one call of a public function.

    Attributes:
        inputs: Shape of the inputs.
        outputs: Shape of the outputs.
        options: Arguments of the kernel function that are not arrays, such as strides.
        stream: Stream for arrays on a device, or ``None``.
        precision: Precision of the operands; for NumPy arrays, ``"float32"``.
    """

    inputs: Shape
    outputs: Shape
    options: tuple[Any, ...]
    stream: Any = None
    precision: str = "float32"

    def forward(
        self, function: Callable[..., None], known: tuple[Any, ...], out: Any, argmax: Any = None
    ) -> Any:
        """Compute the outputs.

        Args:
            function: CPU function that computes the outputs. The CUDA function has the same name.
            known: Arrays that the function reads, in the order of its parameters.
            out: Buffer to write the outputs to, or ``None``.
            argmax: Dtype of the argmax of a pool; ``None`` if the function writes no argmax.

        Returns:
            The outputs, or, if ``argmax`` is given, two arrays: the outputs and the argmax.
        """
        outputs = arrays.out("out", out, self.outputs, known, stream=self.stream)
        if argmax is None:
            arrays.call(
                function,
                *known,
                *self.options,
                outputs,
                stream=self.stream,
                precision=self.precision,
            )
            return arrays.result(outputs)
        cells = arrays.empty(known, self.outputs, argmax, self.stream)
        arrays.call(
            function,
            *known,
            *self.options,
            outputs,
            cells,
            stream=self.stream,
            precision=self.precision,
        )
        return arrays.result(outputs), arrays.result(cells)

    def grad_inputs(
        self, function: Callable[..., None], known: tuple[Any, ...], grads: Any, out: Any
    ) -> Any:
        """Compute the gradient of the inputs.

        Args:
            function: CPU function that computes this gradient.
            known: Arrays that the function reads, without ``inputs`` and ``grads``.
            grads: Gradient of the outputs.
            out: Buffer to write the result to, or ``None``.
        """
        result = arrays.out("out", out, self.inputs, (grads, *known), stream=self.stream)
        # `function` reads only the shape of its first parameter, `inputs`. The result has the same
        # shape, so pass the result there.
        arrays.call(
            function,
            result,
            *known,
            *self.options,
            grads,
            result,
            stream=self.stream,
            precision=self.precision,
        )
        return arrays.result(result)

    def grad_weights(
        self,
        function: Callable[..., None],
        inputs: Any,
        weights: Shape,
        gate: Any,
        grads: Any,
        out: Any,
    ) -> tuple[Any, Any]:
        """Compute the gradients of the weights and of the bias, and return both.

        Args:
            function: CPU function that computes these gradients.
            inputs: Inputs of the forward pass.
            weights: Shape of the weights.
            gate: Mask of a ReLU, or argmax of a pool.
            grads: Gradient of the outputs.
            out: Buffer for the gradient of the weights, or ``None``.
        """
        result = arrays.out("out", out, weights, (inputs, grads, gate), stream=self.stream)
        bias = arrays.empty((inputs,), self.outputs[3:], np.float32, self.stream)
        # `function` reads only the shapes of its second and third parameters, `weights` and `bias`.
        # The gradients have the same shapes, so pass the arrays of the gradients there.
        arrays.call(
            function,
            inputs,
            result,
            bias,
            gate,
            *self.options,
            grads,
            result,
            bias,
            stream=self.stream,
            precision=self.precision,
        )
        return arrays.result(result), arrays.result(bias)
