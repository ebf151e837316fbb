"""Convert models of stock Keras layers to plugin layers and back.

`decide` chooses the implementation of each layer, `forge` replaces layers by plugin layers
accordingly, and `lower` restores the stock layers.
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
