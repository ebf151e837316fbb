"""Check and measure what a plugin declares, in tests of the plugin's author.

A complete test of a layer is

    ```python
    import pytest
    from cnnforge.testing import layer_checks

    @pytest.mark.parametrize("check", layer_checks("acme/gabor"), ids=str)
    def test_layer(check):
        check()
    ```

`cnnforge plugins check acme/gabor` runs the same checks. A benchmark of the layer is

    ```python
    from cnnforge.testing import benchmark_cases

    @pytest.mark.parametrize("case", benchmark_cases("acme/gabor"), ids=str)
    def test_speed(layer_benchmark, case):
        layer_benchmark(case)
    ```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnnforge.testing.cases import Check, LayerCase, NotRunError, RepeatedError
from cnnforge.utils.tolerance import assert_close, error_bounds

if TYPE_CHECKING:
    from cnnforge.testing.benchmarks import benchmark_cases
    from cnnforge.testing.conformance import dataset_checks, layer_checks, model_checks
    from cnnforge.testing.declared.augmentations import augmentation_checks
    from cnnforge.testing.declared.callbacks import callback_checks

__all__ = [
    "Check",
    "LayerCase",
    "NotRunError",
    "RepeatedError",
    "assert_close",
    "augmentation_checks",
    "benchmark_cases",
    "callback_checks",
    "dataset_checks",
    "error_bounds",
    "layer_checks",
    "model_checks",
]


_CONFORMANCE = "cnnforge.testing.conformance"
_NEED_KERAS = {
    "augmentation_checks": "cnnforge.testing.declared.augmentations",
    "benchmark_cases": "cnnforge.testing.benchmarks",
    "callback_checks": "cnnforge.testing.declared.callbacks",
    "dataset_checks": _CONFORMANCE,
    "layer_checks": _CONFORMANCE,
    "model_checks": _CONFORMANCE,
}


def __getattr__(name: str) -> Any:
    # These names are imported at their first use, because their modules import Keras, which takes
    # seconds. Tests of kernels use only `assert_close` and `error_bounds`, and need no Keras.
    if name in _NEED_KERAS:
        return getattr(import_module(_NEED_KERAS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
