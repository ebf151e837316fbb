"""What a run is: the files that are written before its first epoch."""

from __future__ import annotations

import dataclasses

import keras

from cnnforge import requirements
from cnnforge.conversion import LayerImplementation, implementations
from cnnforge.data import parse
from cnnforge.discovery import Plugins
from cnnforge.environment import environment, versions
from cnnforge.plugin import ModelSpec
from cnnforge.training.session import Session, own_layers


def write_facts(session: Session, spec: ModelSpec) -> None:
    """Write the configuration, the environment, and how the kernels were chosen and checked.

    Args:
        session: A session that is about to train.
        spec: Its model.

    Raises:
        RunError: A file could not be written.
    """
    run, dataset, plugins = session.run, session.dataset, session.plugins
    options = session.options
    table = {
        "cnnforge": versions(["cnnforge"]).get("cnnforge", "unknown"),
        "model": spec.qualified_name,
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
        "image_shape": list(dataset.image_shape),
        "callbacks": list(session.callbacks),
        "augmentations": [name for name, _ in session.augmentations],
    }
    run.write_classes(dataset.classes)
    if dataset.skipped:
        run.write_csv("skipped.csv", ["file", "reason"], dataset.skipped)
    chosen = _implementations(session.model, plugins)
    run.write_json("kernels.json", [dataclasses.asdict(it) for it in chosen])
    run.write_json("kernel_check.json", [check.to_json() for check in session.checks])
    facts = environment(
        seed=options.seed,
        data_fingerprint=dataset.fingerprint,
        model=spec.qualified_name,
        plugins=[
            {
                "name": record.name,
                "source": record.source,
                "distribution": record.distribution,
                "version": record.version,
            }
            for record in plugins.records
            if record.status == "loaded"
        ],
    )
    run.write_json("environment.json", facts)
    data = plugins.datasets[parse(options.data, plugins.datasets)[0]]
    used = [
        ("model", spec.qualified_name),
        ("dataset", data.qualified_name),
        *(("callback", name) for name in session.callbacks),
        *(("augmentation", name) for name, _ in session.augmentations),
    ]
    layers = own_layers(session.stock)
    requirements.write(run, requirements.requirements(plugins.records, used, layers))
    # Last: a directory without it is no run.
    run.write_config(options.as_dict(), table)


def _implementations(model: keras.Model, plugins: Plugins) -> list[LayerImplementation]:
    if own_layers(model):
        return implementations(model, layers=plugins.layers)
    # No plugin's layer is imported: one that cannot be is no reason against --kernels keras.
    replaceable = {(spec.reference or "").rpartition(":")[2] for spec in plugins.layers.values()}
    kinds = ((layer.name, type(layer).__name__) for layer in model._flatten_layers())
    return [
        LayerImplementation(name, kind, "keras", "") for name, kind in kinds if kind in replaceable
    ]
