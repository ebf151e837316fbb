"""Stock Keras layers into plugin layers and back.

`decide` says which implementation computes each layer, `forge` replaces layers accordingly and
`lower` restores the stock layers.
"""

from cnnforge.conversion.decisions import (
    PREVIOUS,
    Kernels,
    LayerImplementation,
    decide,
    implementations,
)
from cnnforge.conversion.exchange import forge, lower

__all__ = [
    "PREVIOUS",
    "Kernels",
    "LayerImplementation",
    "decide",
    "forge",
    "implementations",
    "lower",
]
