"""The faster implementation computes each layer; it is measured once."""

import json
import logging
import random
import time

import keras
import numpy as np
import pytest

from cnnforge.conversion import autotune as module
from cnnforge.conversion import forge
from cnnforge.conversion.autotune import Autotuner, Choice, cached_measurements
from cnnforge.conversion.workloads import model_workloads
from cnnforge.plugin import LayerSpec
from cnnforge.plugin_host.registry import Registry


class _Sleeping(keras.layers.AveragePooling2D):
    seconds = 0.0

    def call(self, inputs):
        import tensorflow as tf

        def wait(value):
            time.sleep(self.seconds)
            return value

        outputs = super().call(inputs)
        waited = tf.numpy_function(wait, [outputs], tf.float32)
        return tf.ensure_shape(waited, outputs.shape)


class SlowPool(_Sleeping):
    """A plugin layer that is slower than its reference."""

    seconds = 0.01


class SlowReference(_Sleeping):
    """A reference that is slower than the plugin's layer."""

    seconds = 0.01


class FastPool(keras.layers.AveragePooling2D):
    """A plugin layer that is faster than its slow reference."""


class BrokenPool(keras.layers.AveragePooling2D):
    """A plugin layer that cannot be computed."""

    def call(self, inputs):
        raise RuntimeError("no kernel")


def registry(name, reference="keras.layers:AveragePooling2D"):
    found = Registry(LayerSpec)
    spec = LayerSpec(name="pool", target=f"{__name__}:{name}", summary="", reference=reference)
    found.add("test", [spec])
    return found


def choose(stack, layers, cache, *, batch_size=2, training=True):
    """The choice for each layer of a model, one workload at a time."""
    with Autotuner(training=training, cache_file=cache) as tuner:
        workloads = model_workloads(stack, layers, batch_size)
        return {name: tuner.choose([it]).implementation for name, it in workloads}


def model(kind, **options):
    return keras.Sequential([keras.Input((8, 8, 3)), kind(2, name="it", **options)])


@pytest.fixture(autouse=True)
def _this_module_can_be_imported(monkeypatch):
    import sys

    here = type(sys)(__name__)
    vars(here).update(globals())
    monkeypatch.setitem(sys.modules, __name__, here)


pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the slow layers are made of TensorFlow ops"
)


@pytest.fixture
def measured(monkeypatch):
    """The workloads that were really measured."""
    calls = []
    original = module._measure
    monkeypatch.setattr(
        module, "_measure", lambda it, training: calls.append(it) or original(it, training)
    )
    return calls


def test_a_slow_layer_gives_way(tmp_path, measured):
    cache = tmp_path / "new" / "choices.json"
    layers = registry("SlowPool")
    assert choose(model(SlowPool), layers, cache) == {"it": "keras"}
    assert len(measured) == 1
    # The second time the file answers.
    assert choose(model(SlowPool), layers, cache) == {"it": "keras"}
    assert len(measured) == 1
    # Another shape, configuration or batch is another question, and so is a forward pass alone.
    choose(model(SlowPool), layers, cache, batch_size=3)
    choose(model(SlowPool, padding="same"), layers, cache)
    choose(model(SlowPool), layers, cache, training=False)
    assert len(measured) == 4
    assert len(json.loads(cache.read_text())["choices"]) == 4


def test_a_fast_layer_stays(tmp_path):
    layers = registry("FastPool", f"{__name__}:SlowReference")
    assert choose(model(FastPool), layers, tmp_path / "choices.json") == {"it": "numba"}


@pytest.mark.parametrize(
    ("reference", "chosen"),
    [
        ([1.0] * 9, "numba"),
        # Less than the margin is noise, however steady it is.
        ([0.96] * 9, "numba"),
        ([0.9] * 9, "keras"),
        ([0.5] * 9, "keras"),
        # Faster in the middle, and slower in two rounds of nine.
        ([0.9] * 7 + [1.2] * 2, "numba"),
    ],
    ids=["same", "within the margin", "faster", "much faster", "unsteady"],
)
def test_the_framework_wins_by_a_margin(monkeypatch, reference, chosen):
    times = {"numba": np.ones(9), "keras": np.array(reference)}

    def interleave(functions, **options):
        from cnnforge.utils.timing import timing

        return {name: timing(it) for name, it in times.items()}, times

    monkeypatch.setattr(module, "interleave", interleave)
    ((_, workload),) = model_workloads(model(FastPool), registry("FastPool"), 2)
    found, _ = module._measure(workload, True)
    assert found.implementation == chosen
    assert found.ratio == pytest.approx(np.median(reference))


def test_a_core_that_is_taken_decides_nothing():
    """Slow in most rounds, as fast as the framework in the others."""
    times = {"numba": np.array([2.0] * 7 + [1.0] * 2), "keras": np.ones(9)}
    assert not module._lost(times)
    assert module._lost({**times, "numba": times["numba"] * 1.2})


def test_the_framework_has_to_win_twice(monkeypatch):
    rounds = iter([np.full(9, 0.5), np.full(9, 2.0)])

    def interleave(functions, **options):
        from cnnforge.utils.timing import timing

        times = {"numba": np.ones(9), "keras": next(rounds)}
        return {name: timing(it) for name, it in times.items()}, times

    monkeypatch.setattr(module, "interleave", interleave)
    ((_, workload),) = model_workloads(model(FastPool), registry("FastPool"), 2)
    found, _ = module._measure(workload, True)
    assert (found.implementation, found.ratio) == ("numba", 2.0)


def test_several_shapes_are_chosen_for_on_the_whole(monkeypatch):
    (workload,) = (it for _, it in model_workloads(model(FastPool), registry("FastPool"), 2))
    known = iter(
        [
            Choice("keras", 0.5, seconds=(2.0, 1.0)),
            Choice("numba", 2.0, seconds=(4.0, 8.0)),
        ]
    )
    tuner = Autotuner()
    monkeypatch.setattr(tuner, "_choose_one", lambda it: next(known))
    joint = tuner.choose([workload, workload])
    assert (joint.implementation, joint.ratio) == ("numba", 1.5)


def test_other_versions_are_measured_anew(tmp_path, measured, monkeypatch):
    cache, layers = tmp_path / "choices.json", registry("SlowPool")
    choose(model(SlowPool), layers, cache)
    monkeypatch.setattr(module, "versions", lambda names: {"numba": "99"})
    choose(model(SlowPool), layers, cache)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    choose(model(SlowPool), layers, cache)
    monkeypatch.setattr(module, "sources_digest", lambda kind: "changed")
    choose(model(SlowPool), layers, cache)
    assert len(measured) == 4


def test_what_takes_kernels_to_a_card_counts_where_there_is_one(monkeypatch):
    def machine():
        return module._Machines()[FastPool]

    found = [machine()]
    monkeypatch.setenv("CNNFORGE_TENSORFLOW_GPU", "off")
    assert machine() == found[0]
    monkeypatch.setattr(module, "graphics", lambda: {"gpu": ["NVIDIA H200"], "driver": "570.1"})
    found.append(machine())
    monkeypatch.setenv("CNNFORGE_TENSORFLOW_GPU", "auto")
    found.append(machine())
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    found.append(machine())
    assert len(set(found)) == 4


def test_names_and_weights_do_not_matter(tmp_path, measured):
    cache, layers = tmp_path / "choices.json", registry("SlowPool")
    stack = keras.Sequential(
        [keras.Input((8, 8, 3)), SlowPool(1, name="one"), SlowPool(1, name="two")]
    )
    assert choose(stack, layers, cache) == {"one": "keras", "two": "keras"}
    assert len(measured) == 1


def test_a_broken_layer_gives_way(tmp_path):
    stack = model(FastPool)
    stack.layers[0].__class__ = BrokenPool
    cache = tmp_path / "choices.json"
    assert choose(stack, registry("BrokenPool"), cache) == {"it": "keras"}
    # It may work the next time.
    assert not cache.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"version": 2}',
        '{"version": 2, "choices": []}',
        '{"version": 1, "choices": {}}',
        '{"version": 2, "choices": {"a": {"implementation": "magic", "ratio": 1.0}}}',
        '{"version": 2, "choices": {"a": 5}}',
    ],
    ids=["empty", "list", "no choices", "no table", "version", "implementation", "no choice"],
)
def test_a_damaged_cache_is_written_anew(tmp_path, content):
    cache = tmp_path / "choices.json"
    cache.write_text(content)
    assert choose(model(SlowPool), registry("SlowPool"), cache) == {"it": "keras"}
    assert len(json.loads(cache.read_text())["choices"]) == 1


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("")
    found = choose(model(SlowPool), registry("SlowPool"), tmp_path / "file" / "c.json")
    assert found == {"it": "keras"}


def test_what_another_process_has_chosen_stays(tmp_path):
    cache, layers = tmp_path / "choices.json", registry("SlowPool")
    workloads = [it for _, it in model_workloads(model(SlowPool), layers, 2)]
    with Autotuner(cache_file=cache) as late:
        mine = late.choose(workloads)
        with Autotuner(cache_file=cache) as early:
            first = early.choose(workloads)
    assert mine.ratio != first.ratio
    with Autotuner(cache_file=cache) as next_one:
        assert next_one.choose(workloads).ratio == first.ratio


def test_a_reference_that_corrupts_memory_is_not_run(tmp_path):
    from cnnforge.plugin_host.discovery import discover

    layers = discover().layers
    stock = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 1, strides=2, name="point"),
        ]
    )
    forged = forge(stock, "numba", layers=layers)
    cache = tmp_path / "choices.json"
    assert choose(forged, layers, cache) == {"point": "numba"}
    assert not cache.exists()


def test_random_numbers_are_those_of_a_process_that_measured_nothing(tmp_path):
    from cnnforge.plugin_host.discovery import discover

    layers = discover().layers
    stock = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    forged = forge(stock, "numba", layers=layers)
    drawn = []
    for measure in (False, True):
        keras.utils.set_random_seed(5)
        if measure:
            choose(forged, layers, tmp_path / "choices.json", training=False)
        drawn.append((random.random(), np.random.random()))
    assert drawn[0] == drawn[1]


def test_measuring_ends_and_says_so(tmp_path, monkeypatch, caplog, measured):
    monkeypatch.setattr(module, "_MAX_SECONDS", 0.0)
    monkeypatch.setattr(module, "_MESSAGE_AFTER", -1.0)
    stack = keras.Sequential([keras.Input((8, 8, 3)), SlowPool(1, name="a"), SlowPool(2, name="b")])
    with caplog.at_level(logging.INFO, "cnnforge"):
        found = choose(stack, registry("SlowPool"), tmp_path / "choices.json")
    assert found == {"a": "keras", "b": "numba"}
    assert len(measured) == 1
    first, last = caplog.messages
    assert "which implementation of each layer is faster" in first
    assert last.startswith("measured 1 layers in ")
    assert last.endswith(f"remembered in {tmp_path / 'choices.json'}")


def test_what_cannot_be_remembered_is_not_said_to_be(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_MESSAGE_AFTER", -1.0)
    (tmp_path / "file").write_text("no folder")
    cache = tmp_path / "file" / "choices.json"
    with caplog.at_level(logging.INFO, "cnnforge"):
        choose(model(SlowPool), registry("SlowPool"), cache)
    assert f"not remembered: {cache} cannot be written (" in caplog.messages[-1]


def test_cached_measurements(tmp_path):
    cache, layers = tmp_path / "choices.json", registry("SlowPool")
    choose(model(SlowPool), layers, cache)
    (found,) = cached_measurements(layers.values(), cache)
    assert (found.layer, found.shape, found.training) == ("test/pool", (2, 8, 8, 3), True)
    assert found.choice.implementation == "keras"
    assert cached_measurements([], cache) == []
    assert cached_measurements(layers.values(), tmp_path / "none.json") == []


def test_the_default_file():
    assert module.default_cache_file().name == "choices.json"
    assert module.default_cache_file().parent.name == "cnnforge"
