"""Cases, benchmarks and work of `dropout`."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from cnnforge.plugin import Work
from cnnforge_plugins.layer_cases._common import MAPS, SIZE, Shape, benchmark, cases


def _oracle(layer: Any, inputs: Any) -> NDArray[Any]:
    # `cnnforge.testing` calls a layer for prediction when it compares it with the oracle, and then
    # dropout returns its inputs. In training the outputs are random.
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
    """Count the operations and the bytes of memory of the layer.

    The forward pass alone is a prediction, which drops nothing. All work of a training step is
    counted as backward. A random number counts as one operation, like a comparison.
    """
    elements = math.prod(shape)
    outputs = Work(3 * elements, (2 * SIZE + 1) * elements)
    gradient = Work(elements, (2 * SIZE + 1) * elements) if grad_inputs else Work(0, 0)
    return {"forward": Work(0, 0), "backward": outputs + gradient}
