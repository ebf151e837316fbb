"""Test cases and benchmarks of the layer `dropout`."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge_plugins.layer_cases._common import MAPS, SIZE, Shape, benchmark, cases


def _oracle(layer: Any, inputs: Any) -> NDArray[Any]:
    # `cnnforge.testing` compares the results of this function with predictions of the layer. In a
    # prediction dropout returns its inputs. Outputs of training are random and are not compared.
    return inputs


CASES = cases(
    _oracle,
    {
        "images": ({"rate": 0.25, "seed": 1}, (2, 7, 6, 3)),
        "vectors": ({"rate": 0.5, "seed": 2}, (3, 37)),
    },
    rate=1.5,
)
BENCHMARKS = [benchmark(shape, rate=0.5) for shape in MAPS]


def work(layer: Any, shape: Shape, grad_inputs: bool) -> dict[str, Work]:
    """Count the arithmetic operations of the layer, and the bytes that it reads and writes.

    The entry "forward" is a prediction, which does nothing. The entry "backward" is all the work of
    a training step. To draw a random number and to compare it count as one operation each.
    """
    elements = math.prod(shape)
    outputs = Work(3 * elements, (2 * SIZE + 1) * elements)
    gradient = Work(elements, (2 * SIZE + 1) * elements) if grad_inputs else Work(0, 0)
    return {"forward": Work(0, 0), "backward": outputs + gradient}
