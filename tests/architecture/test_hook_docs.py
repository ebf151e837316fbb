"""plugins/README.md and cnnforge/plugin_host/hookspecs.py say the same."""

import inspect
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from cnnforge.callbacks import Callback
from cnnforge.data import ArraySamples, AugmentedSamples
from cnnforge.plugin_host import hookspecs
from cnnforge.plugin_host.discovery import Plugins, discover
from cnnforge.tasks import LOSS, Metric, Source, Task, ValueRow
from cnnforge.tasks.classification import Classification

README = Path(__file__).parents[2] / "plugins" / "README.md"
ROW = re.compile(r"^\| `(cnnforge_\w+)` \| `([^`]*)` \|", re.MULTILINE)


def block(text: str, beginning: str) -> str:
    found = re.search(rf"```python\n({beginning}.*?)```", text, re.DOTALL)
    assert found is not None, beginning
    return found.group(1)


def specified_hooks() -> dict[str, str]:
    return {
        name: str(inspect.signature(function)).replace("'", "")
        for name, function in inspect.getmembers(hookspecs, inspect.isfunction)
        if hasattr(function, "cnnforge_spec")
    }


def test_readme_lists_every_hook_with_its_signature():
    assert dict(ROW.findall(README.read_text())) == specified_hooks()


def test_every_hook_fills_a_registry():
    assert set(Plugins().registries) == set(specified_hooks())


def test_every_hook_is_documented():
    for name in specified_hooks():
        assert "Returns:" in (getattr(hookspecs, name).__doc__ or "")


def test_readme_example_is_a_plugin(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    path = tmp_path / "mine.py"
    path.write_text(block(README.read_text(), "# mine"))
    found = discover([str(path)])
    assert callable(found.models["mine/linear"].load())
    del sys.modules["mine"]


def test_readme_callback_is_one():
    names = {"Callback": Callback}
    exec(block(README.read_text(), "class EveryFifth"), names)
    callback = names["EveryFifth"]()
    epoch = SimpleNamespace(learning_rate=1.0)
    callback.restore({"epochs": 3})
    for _ in range(2):
        callback.epoch_ended(epoch)
    assert epoch.learning_rate == 0.1
    assert callback.state() == {"epochs": 5}


def test_readme_augmentation_is_one():
    names: dict = {"np": np}
    exec(block(README.read_text(), "def brighten"), names)
    samples = ArraySamples(np.full((9, 2, 2, 1), 100, np.uint8), np.zeros(9, np.int32), [""] * 9)
    augmented = AugmentedSamples(samples, [("brighten", names["brighten"])], seed=0, epoch=0)
    images = augmented.fetch(np.arange(9))
    assert 80 <= images.min() < 100 < images.max() < 120


def test_readme_mixing_augmentation_is_one():
    names: dict = {"np": np}
    exec(block(README.read_text(), "class Half"), names)
    pixels = np.arange(0, 180, 20, np.uint8)[:, None, None, None]
    samples = ArraySamples(np.tile(pixels, (1, 2, 2, 1)), np.arange(9), [""] * 9)
    augmented = AugmentedSamples(samples, [("half", names["Half"]())], seed=0, epoch=0)
    task = Classification([str(number) for number in range(9)])
    images, targets = task.read(augmented, np.arange(9))
    expected = targets["shares"] @ np.arange(0, 180, 20)
    np.testing.assert_array_equal(images[:, 0, 0, 0], expected)
    assert set(targets["shares"].max(axis=1)) <= {0.5, 1}


def test_readme_task_is_one():
    names: dict = {"np": np, "keras": keras, "Task": Task, "LOSS": LOSS, "Metric": Metric}
    names["ValueRow"] = ValueRow
    exec(block(README.read_text(), "class Turn"), names)
    task = names["Turn"]()
    samples = SimpleNamespace(angles=np.radians([10.0, -170.0]))
    targets = task.targets(samples, np.arange(2))
    vectors = np.float32([[0, 1], [-1, 0]])
    found = task.measure(targets, vectors)
    np.testing.assert_allclose(found["error"], [80, 10], rtol=1e-5)
    losses = task.losses(targets, keras.ops.convert_to_tensor(vectors))
    np.testing.assert_allclose(found["loss"], keras.ops.convert_to_numpy(losses), rtol=1e-5)
    sources = [Source(name, (12, 12)) for name in "ab"]
    assert [row.values for row in task.rows(vectors, sources, None, {})] == [
        {"angle": pytest.approx(90)},
        {"angle": pytest.approx(180)},
    ]
