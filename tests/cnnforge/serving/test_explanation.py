"""The process that explains a picture for a server."""

import asyncio
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from served import CLASSES, picture

from cnnforge.prediction import RunData
from cnnforge.runs import RunDirectory
from cnnforge.serving.explanation import Explainer
from cnnforge.serving.limits import Refused

layers = keras.layers


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    folder = tmp_path_factory.mktemp("explained")
    for label in CLASSES:
        (folder / "data" / label).mkdir(parents=True)
        for number in range(4):
            image = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(image).save(folder / "data" / label / f"{number}.png")
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(2, 3, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))
    run = RunDirectory.create(folder, "toy", "toy")
    run.write_config({"model": "toy", "data": f"images:{folder / 'data'}"}, {})
    run.write_json("classes.json", list(CLASSES))
    model.save(run.model)
    return Explainer(run.path, RunData(f"images:{folder / 'data'}", 0.2, 0, ""))


def test_a_process_makes_the_page_and_leaves_no_file(
    explainer: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    text = asyncio.run(explainer.explain(picture(size=(20, 31)), 120))
    assert text.startswith("<!DOCTYPE html>")
    assert "Run toy-toy-001" in text
    assert "These training pictures are the most similar ones" in text
    assert "31x20, gray" in text
    assert list(tmp_path.iterdir()) == []


def test_an_explanation_ends_in_time(explainer: Explainer) -> None:
    with pytest.raises(Refused, match=r"the explanation was not ready after 0\.05 s"):
        asyncio.run(explainer.explain(picture(), 0.05))


def test_what_a_process_reports(
    explainer: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module in the place of Keras, whose import takes no time.
    (tmp_path / "keras.py").write_text(
        "class config:\n"
        "    set_floatx = set_image_data_format = staticmethod(lambda value: print('noise'))\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    gone = Explainer(tmp_path / "gone", explainer.data)
    with pytest.raises(Refused, match="the picture cannot be explained: ") as refused:
        asyncio.run(gone.explain(picture(), 120))
    assert refused.value.status == 422
    assert "gone" in refused.value.message
    assert "noise" not in refused.value.message
    (tmp_path / "keras.py").write_text("import os; os._exit(7)")
    with pytest.raises(Refused, match="ended with status 7"):
        asyncio.run(explainer.explain(picture(), 120))
