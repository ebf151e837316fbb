"""A training ends before its first epoch if a layer fails its check, or workers differ."""

from pathlib import Path
from typing import Any

import keras
import pytest

from cnnforge.configuration import TrainingOptions
from cnnforge.conversion.certificate import LayerCheck
from cnnforge.distributed.workers import Workers
from cnnforge.errors import CnnforgeError, UsageError
from cnnforge.plugin_host.discovery import Plugins
from cnnforge.runs import RunDirectory
from cnnforge.training import setup


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        ("Conv2D", "; train with --kernels keras, and see `cnnforge doctor`"),
        ("its oracle", "; see 'cnnforge plugins check acme/gabor --plugin 'my plugin.py''"),
    ],
)
def test_a_layer_without_a_stock_layer_is_not_computed_by_keras(
    kind: str, way_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = LayerCheck("gabor_1", kind, "acme/gabor", (2, 3, 3, 1), "float32", (), "no luck")
    certified: Any = lambda *_, **__: [failed]  # noqa: E731
    monkeypatch.setattr(setup, "certify", certified)
    model = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Flatten()])
    with pytest.raises(CnnforgeError, match="fails its check") as caught:
        setup._certified(model, Plugins(), ["my plugin.py"])
    assert str(caught.value).endswith(f"no luck{way_out}")


class Second(Workers):
    """The second of two workers."""

    def __init__(self, of_first: list[Any]) -> None:
        super().__init__(rank=1, size=2)
        object.__setattr__(self, "of_first", of_first)

    def from_first(self, value: Any) -> Any:
        assert value is not None
        return self.of_first.pop(0)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("of_first", "given", "epochs", "joins", "different"),
    [
        (["lenet-toy-001", 20], {}, "+3", False, "epochs = 20, not 23"),
        (["lenet-toy-001", 23], {}, None, False, "epochs = 23, not 20"),
        (["lenet-toy-002"], {}, None, False, "resume = lenet-toy-002, not lenet-toy-001"),
        ([20], {"epochs": 9}, None, True, "epochs = 20, not 9"),
    ],
)
def test_a_worker_with_other_options_than_the_first_one_is_told(
    of_first: list[Any],
    given: dict[str, Any],
    epochs: str | None,
    joins: bool,
    different: str,
    tmp_path: Path,
) -> None:
    run = RunDirectory.create(tmp_path, "lenet", "toy")
    run.write_config(TrainingOptions().as_dict(), {})
    load: Any = None
    with pytest.raises(UsageError) as caught:
        setup.resume(run.path, given, epochs, load, workers=Second(of_first), joins=joins)
    expected = f"the first worker has {different}: start all workers with the same options"
    assert str(caught.value) == expected
    assert not of_first


@pytest.mark.parametrize(
    ("of_first", "given", "joins"),
    [(["lenet-toy-001", 20], {}, False), ([25], {}, True), ([20], {"epochs": 20}, True)],
)
def test_a_worker_goes_on_if_its_run_and_epochs_are_those_of_the_first_one(
    of_first: list[Any], given: dict[str, Any], joins: bool, tmp_path: Path
) -> None:
    run = RunDirectory.create(tmp_path, "lenet", "toy")
    run.write_config(TrainingOptions().as_dict(), {})

    def load(plugins: Any) -> Plugins:
        raise CnnforgeError("loaded")

    with pytest.raises(CnnforgeError, match=r"^loaded$"):
        setup.resume(run.path, given, None, load, workers=Second(of_first), joins=joins)
