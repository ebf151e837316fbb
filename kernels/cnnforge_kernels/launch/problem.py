"""The shapes, options and stream of one call whose arguments have been checked.

Every op has the same three passes. A public function checks its arguments, makes a ``Problem``, and
calls the method of the pass with the op's kernel function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnnforge_kernels import arrays
from cnnforge_kernels.launch.arguments import Shape


class Problem(NamedTuple):
    """The shapes and options of one call.

    Attributes:
        inputs: Shape of the inputs.
        outputs: Shape of the outputs.
        options: Middle arguments of the kernel functions: they follow the arrays that a function
            reads, and precede the arrays that it writes.
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
            function: CPU function of the pass; the CUDA function has the same name.
            known: Arrays that the function reads, in the order of its parameters.
            out: Buffer to write the outputs to, or ``None``.
            argmax: Dtype of the argmax of a pool; ``None`` if the function writes none.

        Returns:
            The outputs; if ``argmax`` is given, the outputs and the argmax.
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
        """Compute the gradient of the inputs; ``grads`` is the gradient of the outputs."""
        result = arrays.out("out", out, self.inputs, (grads, *known), stream=self.stream)
        # The first parameter is `inputs`, of which the function reads only the shape. That of the
        # result is the same.
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
        """Compute the gradients of the weights and of the bias.

        Args:
            function: CPU function of the pass.
            inputs: Inputs of the forward pass.
            weights: Shape of the weights.
            gate: Mask of a ReLU, or argmax of a pool.
            grads: Gradient of the outputs.
            out: Buffer for the gradient of the weights, or ``None``.
        """
        result = arrays.out("out", out, weights, (inputs, grads, gate), stream=self.stream)
        bias = arrays.empty((inputs,), self.outputs[3:], np.float32, self.stream)
        # The second and third parameters are `weights` and `bias`, of which the function reads only
        # the shapes. Those of the results are the same.
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
