"""Decisions about layers; the forged model follows them."""

import dataclasses

import keras
import numpy as np
import pytest

from cnnforge.conversion import PREVIOUS, decide, forge, implementations, lower
from cnnforge.conversion import decisions as module
from cnnforge.conversion.autotune import Choice
from cnnforge.errors import UnknownNameError, UsageError
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.discovery import discover
from cnnforge.plugin_host.registry import Registry
from cnnforge.testing import assert_close

layers = keras.layers
SHAPE = (12, 12, 2)


@pytest.fixture(scope="module")
def installed():
    return discover().layers


def functional():
    inputs = outputs = keras.Input(SHAPE)
    for layer in (
        layers.Conv2D(4, 3, activation="relu", name="conv1"),
        layers.MaxPooling2D(name="pool1"),
        layers.Conv2D(4, 3, activation="relu", name="conv2"),
        layers.MaxPooling2D(name="pool2"),
        layers.GlobalAveragePooling2D(name="mean"),
        layers.Dense(3, name="dense"),
    ):
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name="net")


@pytest.fixture
def ratios(monkeypatch):
    """Ratios by plugin layer and the first number of its configuration, in place of measuring."""
    table = {}

    class Autotuner(module.Autotuner):
        def choose(self, workloads):
            (workload,) = workloads
            asked.append(workload)
            ratio = table.get((workload.spec.name, workload.shape[-1]), 2.0)
            return Choice("numba" if ratio >= 1 else "keras", ratio, seconds=(1.0, ratio))

    asked = table["asked"] = []
    monkeypatch.setattr(module, "Autotuner", Autotuner)
    return table


def rows(decided):
    return [(it.layer, it.kind, it.implementation, it.provider, it.ratio) for it in decided]


def test_auto_fuses_what_is_faster(ratios, installed):
    decided = decide(functional(), layers=installed, batch_size=7)
    assert rows(decided) == [
        ("conv1", "Conv2D", "numba", "builtin/conv_block2d", 2.0),
        ("pool1", "MaxPooling2D", "numba", PREVIOUS, 2.0),
        ("conv2", "Conv2D", "numba", "builtin/conv_block2d", 2.0),
        ("pool2", "MaxPooling2D", "numba", PREVIOUS, 2.0),
        ("mean", "GlobalAveragePooling2D", "numba", "builtin/global_average_pooling2d", 2.0),
        ("dense", "Dense", "numba", "builtin/dense", 2.0),
    ]
    assert {it.reason for it in decided} == {"measured"}
    # At the shapes of the model; nothing that is trained lies before the first layer.
    assert {it.shape: it.grad_inputs for it in ratios["asked"]} == {
        (7, 12, 12, 2): False,
        (7, 5, 5, 4): True,
        (7, 1, 1, 4): True,
        (7, 4): True,
    }


def test_a_pair_that_loses_comes_apart(ratios, installed):
    ratios["conv_block2d", 2] = 0.8
    ratios["max_pooling2d", 4] = 0.5
    decided = decide(functional(), layers=installed)
    assert rows(decided)[:4] == [
        ("conv1", "Conv2D", "numba", "builtin/conv2d", 2.0),
        ("pool1", "MaxPooling2D", "keras", "", 0.5),
        ("conv2", "Conv2D", "numba", "builtin/conv_block2d", 2.0),
        ("pool2", "MaxPooling2D", "numba", PREVIOUS, 2.0),
    ]


def test_the_forged_model_is_what_was_decided(ratios, installed):
    ratios["conv_block2d", 2] = 0.8
    ratios["max_pooling2d", 4] = 0.5
    ratios["global_average_pooling2d", 4] = 0.9
    model = functional()
    decided = decide(model, layers=installed)
    forged = forge(model, decided, layers=installed)
    found = implementations(forged, layers=installed)
    assert [it[:4] for it in rows(found)] == [it[:4] for it in rows(decided)]
    ours = [type(it).__module__.startswith("cnnforge_plugins.") for it in forged.layers]
    assert ours == [False, True, False, True, True, False, True]
    # `forge` asks for itself where it is told nothing.
    again = implementations(forge(model, layers=installed), layers=installed)
    assert again == found
    images = np.random.default_rng(0).uniform(0, 1, (3, *SHAPE)).astype(np.float32)
    assert_close(forged(images), model(images), 4 * 9 * 4)
    lowered = lower(forged, layers=installed)
    assert [type(it) for it in lowered.layers] == [type(it) for it in model.layers]
    assert [it.name for it in lowered.layers[1:]] == [it.name for it in model.layers[1:]]
    np.testing.assert_array_equal(lowered(images), model(images))
    for ours, stock in zip(lowered.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, stock)


def test_nothing_that_is_slower_is_taken(ratios, installed):
    names = ("conv_block2d", "conv2d", "max_pooling2d", "global_average_pooling2d", "dense")
    for name in names:
        ratios |= {(name, channels): 0.5 for channels in (2, 4)}
    model = functional()
    assert {it.implementation for it in decide(model, layers=installed)} == {"keras"}
    assert forge(model, layers=installed) is model


@pytest.mark.parametrize("kernels", ["numba", "keras"])
def test_what_is_asked_for_is_not_measured(ratios, installed, kernels):
    decided = decide(functional(), kernels, layers=installed)
    assert {it.implementation for it in decided} == {kernels}
    assert {it.reason for it in decided} == {f"--kernels {kernels}"}
    assert len(decided) == 6
    assert ratios["asked"] == []


def test_decisions_hold_for_layers_that_keras_has_named_otherwise(ratios, installed):
    def unnamed():
        return keras.Sequential(
            [
                keras.Input(SHAPE),
                layers.Conv2D(2, 3),
                layers.AveragePooling2D(2),
                layers.Conv2D(2, 3),
            ]
        )

    ratios["conv2d", 2] = 2.0
    decided = decide(unnamed(), layers=installed)
    decided[0] = dataclasses.replace(decided[0], implementation="keras", provider="")
    model = unnamed()
    assert [it.name for it in model.layers] != [it.layer for it in decided]
    found = implementations(forge(model, decided, layers=installed), layers=installed)
    assert [it.implementation for it in found] == ["keras", "numba", "numba"]


def test_decisions_about_another_model(installed):
    decided = decide(functional(), "numba", layers=installed)
    other = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 3, name="conv1")])
    with pytest.raises(UsageError, match=r"another model.*Conv2D 'conv1'"):
        forge(other, decided, layers=installed)
    with pytest.raises(UsageError, match="another model"):
        forge(other, decided[-1:], layers=installed)


def test_a_plugin_that_is_gone(installed):
    decided = decide(functional(), "numba", layers=installed)
    few = Registry(LayerSpec)
    few.add("builtin", [it for it in installed.values() if it.name != "conv_block2d"])
    with pytest.raises(UnknownNameError, match="conv_block2d"):
        forge(functional(), decided, layers=few)
    # What is not needed may be gone.
    kept = decide(functional(), "keras", layers=installed)
    assert forge(functional(), kept, layers=few).name == "net"


def test_auto_falls_back_and_says_so():
    broken = Registry(LayerSpec)
    spec = LayerSpec(
        name="conv", target="acme_missing:Layer", summary="", reference="keras.layers:Conv2D"
    )
    broken.add("acme", [spec])
    model = functional()
    decided = decide(model, layers=broken)
    assert {it.implementation for it in decided} == {"keras"}
    assert "acme_missing" in decided[0].reason
    assert forge(model, layers=broken) is model


def test_a_model_inside_of_a_model(ratios, installed):
    inner = functional()
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.Dense(2, name="outer")(inner(inputs)))
    ratios["conv_block2d", 2] = 0.5
    decided = decide(model, layers=installed)
    assert {it.layer: it.provider.rpartition("/")[2] for it in decided} == {
        "conv1": "conv2d",
        "pool1": "max_pooling2d",
        "conv2": "conv_block2d",
        "pool2": PREVIOUS,
        "mean": "global_average_pooling2d",
        "dense": "dense",
        "outer": "dense",
    }
    forged = forge(model, decided, layers=installed)
    assert [it.provider for it in implementations(forged, layers=installed)] == [
        it.provider for it in decided
    ]
