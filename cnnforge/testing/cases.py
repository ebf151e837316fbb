"""Cases and checks of a layer. Light, so that manifests and modules of cases can import it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """One way to make a layer, inputs for it, and what it must compute.

    Prefer small shapes with dimensions that differ, and weights with two equal dimensions in one
    case, so that swapped axes cannot hide.

    Args:
        arguments: Arguments of the constructor.
        input_shape: The shape of the inputs, the batch included.
        oracle: `oracle(layer, inputs, *weights) -> outputs` in NumPy: the definition of the layer,
            written to be read. All arrays are float64. It may read the attributes of `layer`;
            `weights` are the arrays of `layer.weights`. Values are compared with it, and gradients
            with its finite differences.
        name: Lower-case words with hyphens, different for each case of a layer.
        bad_arguments: Arguments with values that the layer must refuse, with a message that names
            both.
        terms: K of the tolerance, the number of products in one element of the outputs. By
            default the number of inputs of one sample, the max number that an element can depend
            on.
        speed_shape: The shape that the speed is measured at; by default `input_shape` with a batch
            of 32. `benchmark_cases` takes the cases that name one, unless the spec of the layer
            names benchmarks.
        grad_inputs: Whether the speed of training includes the gradient of the inputs; a first
            layer needs none.

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
    """One property of a layer, a model or a dataset; calling it checks that it holds.

    `str(check)` is its name, which is the same in every process: `"values_oracle-strided"`.

    Attributes:
        kind: Name of the property, for instance `"values_oracle"`.
        case: Name of the case; "" for a check of the whole layer.
        run: Function that checks. It returns a note, or "", and raises `AssertionError` on failure.
    """

    kind: str
    case: str
    run: Callable[[], str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.kind}-{self.case}" if self.case else self.kind

    def __call__(self) -> str:
        """Check the property.

        Returns:
            A note of a few words about a check that passed; mostly "".

        Raises:
            AssertionError: The property does not hold; the message names the fault and, if it can,
                the cause.
        """
        return self.run()
