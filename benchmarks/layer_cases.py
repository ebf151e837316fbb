"""Make the cases of the layer benchmarks (bench_layers.py) from the shapes of cases.py.

A *pair* is one of our layers and its reference, the Keras layer that it replaces, at one shape. The
name of a pair, such as ``seed1.block``, consists of a shape and a kind of layer. A *key*, such as
``seed1.block.full``, consists of a pair and a pass (forward or full). Results and thresholds are
stored by key.
"""

from __future__ import annotations

from typing import Any

from cases import CONVOLUTIONS, DEPTHWISE, DROPOUTS, NORMALIZATIONS, POOLS

# What is needed to build a pair: the name of the reference layer, the arguments of both layers, the
# input shape, and whether the gradient of the inputs is computed.
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
        # The benchmark of the forward pass predicts, so it drops nothing. The full pass trains.
        arguments = {"rate": case.rate}
        found[f"{case.name}.dropout"] = ("Dropout", arguments, case.input_shape, True)
    for case in NORMALIZATIONS:
        # The benchmark of the forward pass predicts with moving averages. The full pass trains.
        found[f"{case.name}.norm"] = ("BatchNormalization", {}, case.input_shape, True)
    return found


RECIPES = _recipes()
PAIRS = tuple(RECIPES)
# The pairs that ``--short`` measures: each kind of layer, mostly at small shapes.
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


def every_case() -> list[Any]:
    """Return all cases: those of `PAIRS`, and the benchmarks that other built-in layers define.

    Raises:
        LookupError: No layer of a plugin replaces the reference layer of a pair.
    """
    from cnnforge.plugin_host.discovery import discover
    from cnnforge.testing import benchmark_cases

    layers = discover().layers
    found = [build(pair, layers) for pair in PAIRS]
    known = {case.workload.spec.name for case in found}
    for spec in layers.values():
        if spec.plugin == "builtin" and spec.name not in known:
            found += benchmark_cases(spec)
    return found


def build(pair: str, layers: Any) -> Any:
    """Return the ``cnnforge.benchmarking.Case`` of a pair.

    Raises:
        LookupError: No layer of a plugin replaces the reference layer of the pair.
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
