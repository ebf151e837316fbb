"""Convert models of stock Keras layers to plugin layers and back.

`decide` chooses the implementation of each layer. `forge` replaces stock layers by plugin layers
according to these decisions, and `lower` replaces the plugin layers by stock layers again.
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
