"""The shapes of cases.py as pairs of layers that ``cnnforge.benchmarking`` can measure.

A *pair* has a name such as ``seed1.block``: one of the cases, and what is computed of it. A *key*
is a pair and a pass, ``seed1.block.full``: one number in the table and one threshold of the gate.
"""

from __future__ import annotations

from typing import Any

from cases import CONVOLUTIONS, DEPTHWISE, DROPOUTS, NORMALIZATIONS, POOLS

# Pair to the reference that a layer must name, its arguments, input shape, and whether the gradient
# of the inputs is computed.
_Recipe = tuple[str, dict[str, Any], tuple[int, ...], bool]


def _recipes() -> dict[str, _Recipe]:
    found: dict[str, _Recipe] = {}
    for case in CONVOLUTIONS:
        arguments: dict[str, Any] = {
            "filters": case.filters,
            "kernel_size": case.window,
            "strides": case.stride,
            "padding": "same",
        }
        shape, needed = case.input_shape, not case.first_layer
        bare = {**arguments, "use_bias": False}
        found[f"{case.name}.convolution"] = ("Conv2D", bare, shape, needed)
        found[f"{case.name}.block"] = ("StockBlock2D", arguments, shape, needed)
    for case in DEPTHWISE:
        arguments = {"kernel_size": case.window, "padding": "same", "use_bias": False}
        found[f"{case.name}.convolution"] = ("DepthwiseConv2D", arguments, case.input_shape, True)
    for case in POOLS:
        arguments = {"pool_size": case.window}
        found[f"{case.name}.max"] = ("MaxPooling2D", arguments, case.input_shape, True)
        found[f"{case.name}.average"] = ("AveragePooling2D", arguments, case.input_shape, True)
    for case in DROPOUTS:
        # Its forward pass is that of a prediction, which drops nothing: the full one counts.
        arguments = {"rate": case.rate}
        found[f"{case.name}.dropout"] = ("Dropout", arguments, case.input_shape, True)
    for case in NORMALIZATIONS:
        # Its forward pass is a prediction too, by the averages; the full one is training.
        found[f"{case.name}.norm"] = ("BatchNormalization", {}, case.input_shape, True)
    return found


RECIPES = _recipes()
PAIRS = tuple(RECIPES)
# One of each kind, the small ones first: what a change of a kernel most likely touches.
SHORT = (
    "seed1.convolution",
    "seed1.block",
    "seed2.convolution",
    "seed2.block",
    "cifar.block",
    "mid.convolution",
    "r64.convolution",
    "depth.convolution",
    "pool_seed1.max",
    "pool_cifar.average",
    "drop1.dropout",
    "norm3.norm",
)


# Layers without thresholds.
NOT_MEASURED = {"global_average_pooling2d"}


def every_case() -> list[Any]:
    """List all cases: those of `PAIRS`, and the own benchmarks of the other built-in layers.

    Raises:
        LookupError: No plugin layer stands for the reference of a pair.
    """
    from cnnforge.plugin_host.discovery import discover
    from cnnforge.testing import benchmark_cases

    layers = discover().layers
    found = [build(pair, layers) for pair in PAIRS]
    known = {case.workload.spec.name for case in found}
    for spec in layers.values():
        if spec.plugin == "builtin" and spec.name not in known | NOT_MEASURED:
            found += benchmark_cases(spec)
    return found


def build(pair: str, layers: Any) -> Any:
    """The ``cnnforge.benchmarking.Case`` of a pair.

    Raises:
        LookupError: No plugin layer stands for the pair's reference.
    """
    from cnnforge.benchmarking import Case, Workload

    reference, arguments, shape, grad_inputs = RECIPES[pair]
    for spec in layers.values():
        if spec.reference is not None and spec.reference.endswith(f":{reference}"):
            kind = spec.load()
            config = kind(**arguments, name=pair.replace(".", "_")).get_config()
            stock = spec.load_reference()
            return Case(pair, Workload(spec, kind, stock, config, shape, grad_inputs))
    raise LookupError(f"no plugin layer stands for {reference}, which {pair} measures")
