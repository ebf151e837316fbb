"""Make the benchmarks of a layer from its cases, for the fixture `layer_benchmark`."""

from __future__ import annotations

from collections.abc import Iterable

from cnnforge.conversion.workloads import Case, Workload
from cnnforge.errors import UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.testing._subject import Subject
from cnnforge.testing.cases import LayerCase
from cnnforge.testing.conformance import subject_spec


def benchmark_cases(
    layer: str | LayerSpec,
    cases: Iterable[LayerCase] | None = None,
    *,
    reference: type | None = None,
) -> list[Case]:
    """List the benchmarks of a layer. Nothing is computed or measured yet.

    Args:
        layer: The name of a declared layer, qualified or short, or its spec.
        cases: The cases to measure, each at its `speed_shape`, or at its `input_shape` if it has no
            `speed_shape`. The default is the benchmarks that the spec names. If the spec names
            none, the default is the cases of the spec that have a `speed_shape`.
        reference: The Keras layer class to compare with; by default the one that the spec names.
            It must accept the configuration of the layer, have the same weights in the same order,
            and compute the same, in float64 too. It may be a subclass of the layer with another
            `call`.

    Returns:
        One benchmark for each case, named after the layer and the case, such as `"gabor.large"`.
        In a file of thresholds, the key also contains the name of a pass: `"gabor.large.full"`.

    Raises:
        UnknownNameError: No plugin declares such a layer.
        AmbiguousNameError: Several plugins declare such a layer.
        UsageError: There is nothing to compare with or nothing to measure.
        PluginError: The layer, its reference or its cases cannot be imported.

    Example:
        ```python
        @pytest.mark.parametrize("case", benchmark_cases("acme/gabor", reference=Plain), ids=str)
        def test_speed(layer_benchmark, case):
            layer_benchmark(case)
        ```
    """
    spec = subject_spec(layer, reference)
    kind, stock = spec.load(), spec.load_reference()
    if stock is None:
        raise UsageError(
            f"the layer {spec.qualified_name!r} names no reference, so there is nothing to compare "
            "its time with: give benchmark_cases(..., reference=CLASS) a Keras layer class that "
            "computes the same"
        )
    chosen = tuple(spec.load_benchmarks() if cases is None else cases)
    if not chosen:
        raise UsageError(
            f"no case of the layer {spec.qualified_name!r} names a shape to measure: give a "
            "LayerCase a speed_shape, or give benchmark_cases() the cases"
        )
    found = []
    for case in chosen:
        config = Subject(spec, case).make().get_config()
        shape = case.speed_shape or case.input_shape
        workload = Workload(spec, kind, stock, config, shape, case.grad_inputs)
        name = f"{spec.name}.{case.name}" if case.name else spec.name
        found.append(Case(name, workload, min_ratio=case.min_ratio, arguments=case.arguments))
    return found
