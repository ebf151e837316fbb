"""Define the classes of test cases and of checks.

Plugin manifests import this module, so it must not import Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """Arguments to make a layer with, the shape of its inputs, and the expected outputs.

    Prefer small shapes whose dimensions all differ, so that swapped axes cause an error. In one
    case, give the weights two equal dimensions: if these two axes are swapped, values change but
    shapes do not.

    Args:
        arguments: Arguments of the constructor.
        input_shape: The shape of the inputs, the batch included.
        oracle: Function `oracle(layer, inputs, *weights) -> outputs` that computes the definition
            of the layer in NumPy, as simply as possible. All arrays are float64. It may read the
            attributes of `layer`; `weights` are the arrays of `layer.weights`. The outputs of the
            layer are compared with the oracle, and gradients with finite differences of the oracle.
        name: Lower-case words with hyphens, different for each case of a layer.
        bad_arguments: Names of arguments with a value that the layer must refuse. The error message
            must name the argument and the value.
        terms: K in the tolerance of `assert_close`: the number of products in one element of the
            outputs. By default the number of input values of one sample, since an element can
            depend on all of them.
        speed_shape: The shape of the inputs to measure the speed with; by default `input_shape`
            with a batch of 32. If the spec of the layer names no benchmarks, `benchmark_cases`
            measures the cases that have a `speed_shape`.
        grad_inputs: Whether the measured time of training includes the gradient of the inputs. The
            first layer of a model does not need this gradient.

    Example:
        ```python
        CASES = [
            LayerCase(
                arguments={"slope": 0.25},
                input_shape=(2, 4, 5, 3),
                oracle=lambda layer, inputs: np.maximum(inputs, layer.slope * inputs),
                bad_arguments={"slope": -1.0},
            )
        ]
        ```
    """

    arguments: Mapping[str, Any]
    input_shape: tuple[int, ...]
    oracle: Callable[..., Any] | None = None
    name: str = ""
    bad_arguments: Mapping[str, Any] = field(default_factory=dict)
    terms: int | None = None
    speed_shape: tuple[int, ...] | None = None
    grad_inputs: bool = True


@dataclass(frozen=True)
class Check:
    """A check of one property of a layer, a model or a dataset. Call the object to run the check.

    `str(check)` is the name of the check, the same in every process: `"values_oracle-strided"`.

    Attributes:
        kind: Name of the property, for example `"values_oracle"`.
        case: Name of the case; "" for a check of the whole layer.
        run: Function that runs the check. It returns a note, or "". It raises `AssertionError` if
            the check fails.
    """

    kind: str
    case: str
    run: Callable[[], str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.kind}-{self.case}" if self.case else self.kind

    def __call__(self) -> str:
        """Run the check.

        Returns:
            A short note about a check that passed; mostly "".

        Raises:
            AssertionError: The property does not hold. The message describes the error, and its
                cause if the check could find it.
        """
        return self.run()
