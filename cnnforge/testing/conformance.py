"""List all checks of a layer, a model or a dataset, for authors of plugins.

The functions here only make lists and run no checks, so that pytest can collect the checks quickly.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from cnnforge.errors import PluginError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.testing import _structure
from cnnforge.testing._order import list_checks
from cnnforge.testing._subject import ClassSpec, Subject
from cnnforge.testing.cases import Check, LayerCase
from cnnforge.testing.declared.models_and_datasets import dataset_checks as dataset_checks
from cnnforge.testing.declared.models_and_datasets import model_checks as model_checks


def layer_checks(
    layer: str | LayerSpec | type,
    cases: Iterable[LayerCase] | None = None,
    *,
    reference: type | None = None,
    speed: bool = False,
    cuda: bool = False,
) -> list[Check]:
    """List the checks of a layer. Nothing is computed before a check is called.

    Args:
        layer: The name of a declared layer, qualified or short; its spec; or a layer class.
        cases: Cases to check; by default those that the spec names.
        reference: Class of the stock layer that the layer replaces; by default the one that the
            spec names.
        speed: Whether to measure the speed too.
        cuda: Whether to run the functions for CUDA devices (`ArrayOp(cuda=...)`) in Numba's
            simulator too, and compare them with the functions for the CPU.

    Returns:
        The checks, in the order of causes: memory, determinism, values, gradients, the rest. A
        check that depends on a failed one is not run, so the first failure is the cause.

    Raises:
        UnknownNameError: No plugin declares such a layer.
        AmbiguousNameError: Several plugins declare such a layer.
        ValueError: A layer class is given without cases, or two cases have the same name.
    """
    spec = subject_spec(layer, reference)
    error: PluginError | None = None
    if cases is None and not isinstance(layer, str | LayerSpec):
        raise ValueError(
            f"layer_checks({layer.__name__}): a class has no cases of its own; give it a "
            "sequence of cnnforge.testing.LayerCase"
        )
    try:
        spec.load()
        spec.load_reference()
        cases = spec.load_cases() if cases is None else cases
    except PluginError as found:
        error = found
    cases = _named(spec, tuple(cases or ()))
    declared = Check("targets", "", partial(_targets, spec, cases, error))
    if error is not None or not cases:
        return [declared]
    subjects = [Subject(spec, case) for case in cases]
    return list_checks(spec, subjects, declared, speed=speed, cuda=cuda)


def subject_spec(layer: str | LayerSpec | type, reference: type | None) -> LayerSpec:
    """Return the spec of a layer; `reference`, if given, replaces the reference of the spec."""
    if isinstance(layer, str):
        layer = discover().layers[layer]
    if isinstance(layer, LayerSpec):
        if reference is None:
            return layer
        names = ("name", "target", "summary", "plugin", "cases", "benchmarks", "work", "torch")
        known = {name: getattr(layer, name) for name in names}
        return ClassSpec(**known, fuses=layer.fuses, places=layer.places, stock=reference)
    return ClassSpec(
        name="".join(f"_{c.lower()}" if c.isupper() else c for c in layer.__name__).strip("_"),
        target=f"{layer.__module__}:{layer.__name__}",
        summary="",
        layer=layer,
        stock=reference,
    )


def _named(spec: LayerSpec, cases: tuple[Any, ...]) -> tuple[LayerCase, ...]:
    names = [case.name for case in cases]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two cases of the layer {spec.name!r} are named {name!r}: give each LayerCase a "
                "name of its own"
            )
    return cases


def _targets(spec: LayerSpec, cases: tuple[LayerCase, ...], error: PluginError | None) -> str:
    if error is not None:
        raise AssertionError(str(error)) from error
    if not cases:
        raise AssertionError(
            f"the layer {spec.name!r} names no cases: write a sequence of "
            'cnnforge.testing.LayerCase and name it in LayerSpec(cases="package.module:CASES")'
        )
    try:
        return _structure.targets(spec)
    except PluginError as found:
        raise AssertionError(str(found)) from found
