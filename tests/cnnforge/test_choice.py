"""What computes each layer: the faster one, measured once."""

import json
import time

import keras
import pytest

from cnnforge import choice as module
from cnnforge.choice import choose
from cnnforge.conversion import forge
from cnnforge.plugin import LayerSpec
from cnnforge.registry import Registry


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
    monkeypatch.setattr(module, "_measure", lambda it: calls.append(it) or original(it))
    return calls


def test_a_slow_layer_gives_way(tmp_path, measured):
    cache = tmp_path / "new" / "choices.json"
    layers = registry("SlowPool")
    assert choose(model(SlowPool), layers, cache, batch_size=2) == {"it": "keras"}
    assert len(measured) == 1
    # The second time the file answers.
    assert choose(model(SlowPool), layers, cache, batch_size=2) == {"it": "keras"}
    assert len(measured) == 1
    # Another shape, configuration or batch is another question.
    choose(model(SlowPool), layers, cache, batch_size=3)
    choose(model(SlowPool, padding="same"), layers, cache, batch_size=2)
    assert len(measured) == 3
    assert len(json.loads(cache.read_text())["choices"]) == 3


def test_a_fast_layer_stays(tmp_path):
    layers = registry("FastPool", f"{__name__}:SlowReference")
    found = choose(model(FastPool), layers, tmp_path / "choices.json", batch_size=2)
    assert found == {"it": "numba"}


def test_other_versions_are_measured_anew(tmp_path, measured, monkeypatch):
    cache, layers = tmp_path / "choices.json", registry("SlowPool")
    choose(model(SlowPool), layers, cache, batch_size=2)
    monkeypatch.setattr(module, "versions", lambda names: {"numba": "99"})
    choose(model(SlowPool), layers, cache, batch_size=2)
    assert len(measured) == 2


def test_names_and_weights_do_not_matter(tmp_path, measured):
    cache, layers = tmp_path / "choices.json", registry("SlowPool")
    stack = keras.Sequential(
        [keras.Input((8, 8, 3)), SlowPool(1, name="one"), SlowPool(1, name="two")]
    )
    assert choose(stack, layers, cache, batch_size=2) == {"one": "keras", "two": "keras"}
    assert len(measured) == 1


def test_a_broken_layer_gives_way(tmp_path):
    stack = model(FastPool)
    stack.layers[0].__class__ = BrokenPool
    found = choose(stack, registry("BrokenPool"), tmp_path / "choices.json", batch_size=2)
    assert found == {"it": "keras"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"version": 1}',
        '{"version": 1, "choices": []}',
        '{"version": 99, "choices": {}}',
        '{"version": 1, "choices": {"a": {"implementation": "magic", "ratio": 1.0}}}',
        '{"version": 1, "choices": {"a": 5}}',
    ],
)
def test_a_damaged_cache_is_written_anew(tmp_path, content):
    cache = tmp_path / "choices.json"
    cache.write_text(content)
    layers = registry("SlowPool")
    assert choose(model(SlowPool), layers, cache, batch_size=2) == {"it": "keras"}
    assert len(json.loads(cache.read_text())["choices"]) == 1


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("")
    found = choose(model(SlowPool), registry("SlowPool"), tmp_path / "file" / "c.json")
    assert found == {"it": "keras"}


def test_a_reference_that_corrupts_memory_is_not_run(tmp_path):
    from cnnforge.discovery import discover

    layers = discover().layers
    stock = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 1, strides=2, name="point"),
        ]
    )
    forged = forge(stock, "numba", layers=layers)
    cache = tmp_path / "choices.json"
    assert choose(forged, layers, cache, batch_size=2) == {"point": "numba"}
    (stored,) = json.loads(cache.read_text())["choices"].values()
    assert stored["ratio"] is None


def test_the_default_file():
    assert module.default_cache_file().name == "choices.json"
    assert module.default_cache_file().parent.name == "cnnforge"
