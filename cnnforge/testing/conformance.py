"""All checks of a layer, a model or a dataset, by name: what a plugin's author runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cnnforge.discovery import discover
from cnnforge.plugin import DatasetSpec, LayerSpec, ModelSpec
from cnnforge.testing.cases import Check, LayerCase


def layer_checks(
    layer: str | LayerSpec | type,
    cases: Iterable[LayerCase] | None = None,
    *,
    reference: type | None = None,
    speed: bool = False,
) -> Iterator[Check]:
    """Yield the checks of a layer; nothing is computed before one is called."""
    spec = discover().layers[layer] if isinstance(layer, str) else layer

    def targets() -> str:
        spec.load()
        spec.load_reference()
        return ""

    yield Check("targets", "", targets)


def model_checks(model: str | ModelSpec) -> Iterator[Check]:
    """Yield the checks of a model."""
    spec = discover().models[model] if isinstance(model, str) else model
    yield Check("targets", "", lambda: str(spec.load()) and "")


def dataset_checks(dataset: str | DatasetSpec) -> Iterator[Check]:
    """Yield the checks of a dataset."""
    spec = discover().datasets[dataset] if isinstance(dataset, str) else dataset
    yield Check("targets", "", lambda: str(spec.load()) and "")
