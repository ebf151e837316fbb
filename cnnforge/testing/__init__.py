"""The public kit for authors of plugins: tolerance, cases, and checks of layers.

A plugin's whole test of a layer is

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

from cnnforge.testing.cases import Check as Check
from cnnforge.testing.cases import LayerCase as LayerCase
from cnnforge.utils.tolerance import assert_close as assert_close
from cnnforge.utils.tolerance import error_bounds as error_bounds

if TYPE_CHECKING:
    from cnnforge.testing.benchmarks import benchmark_cases as benchmark_cases
    from cnnforge.testing.conformance import dataset_checks as dataset_checks
    from cnnforge.testing.conformance import layer_checks as layer_checks
    from cnnforge.testing.conformance import model_checks as model_checks

_CONFORMANCE = "cnnforge.testing.conformance"
_NEED_KERAS = {
    "benchmark_cases": "cnnforge.testing.benchmarks",
    "dataset_checks": _CONFORMANCE,
    "layer_checks": _CONFORMANCE,
    "model_checks": _CONFORMANCE,
}


def __getattr__(name: str) -> Any:
    # Keras takes seconds to import, and tests of kernels, which need the tolerance, have no use
    # for it.
    if name in _NEED_KERAS:
        return getattr(import_module(_NEED_KERAS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
