"""What a layer is checked with, and what a check is; light, for manifests and cases to import."""

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
        arguments: The constructor's.
        input_shape: The shape of the inputs, the batch included.
        oracle: `oracle(layer, inputs, *weights) -> outputs` in NumPy: the definition of the layer,
            written to be read. All arrays are float64; `layer` is there for its attributes,
            `weights` are those of `layer.weights`, in their order. Values are compared with it and
            gradients with its finite differences.
        name: Lower-case words with hyphens, which tell the case from the others of a layer.
        bad_arguments: Argument to a value that the layer must refuse, with a message that names
            both.
        terms: K of the tolerance, the number of products in one element of the outputs. By
            default the number of inputs that one sample has, which no element can depend on more
            of.
        speed_shape: The shape that the speed is measured at; by default `input_shape` with a batch
            of 32. `benchmark_cases` takes the cases that name one.

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


@dataclass(frozen=True)
class Check:
    """One property of a layer, a model or a dataset; calling it checks that it holds.

    `str(check)` is its name, which is the same in every process: `"values_oracle-strided"`.

    Attributes:
        kind: What is checked, for instance `"values_oracle"`.
        case: The name of the case; "" for a check of the whole.
        run: Checks; returns a note, or "", and raises `AssertionError` where it fails.
    """

    kind: str
    case: str
    run: Callable[[], str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.kind}-{self.case}" if self.case else self.kind

    def __call__(self) -> str:
        """Check.

        Returns:
            What is worth knowing of a check that passed, in a few words; mostly "".

        Raises:
            AssertionError: It does not hold; the message says what is wrong, and what may be the
                cause.
        """
        return self.run()
