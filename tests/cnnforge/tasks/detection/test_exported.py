"""The model that computes boxes from pixels gives what `decode` gives, also in another program."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from cnnforge.tasks.detection.decoding import decode
from cnnforge.tasks.detection.exported import with_boxes

SIZE = 48, 64
CLASSES = 3
OPTIONS: dict[str, Any] = {"confidence": 0.2, "overlap": 0.4, "max_detections": 100}
SCRIPT = """
import sys
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
outputs = model.predict(np.load(sys.argv[2]), verbose=0)
np.savez(sys.argv[3], **outputs)
print("cnnforge" in sys.modules)
"""


def maps_in_images(count: int, seed: int) -> np.ndarray:
    """Return images whose channels are the values of maps: many peaks, and boxes that overlap."""
    random = np.random.default_rng(seed)
    images = random.normal(-1, 2, (count, *SIZE, CLASSES + 4)).astype(np.float32)
    images[..., CLASSES:] = random.normal(0.8, 0.7, (count, *SIZE, 4))
    return images


def reader(strides: tuple[int, ...]) -> keras.Model:
    """Return a model whose maps are every fourth, eighth, ... pixel of the image."""
    image = keras.Input((*SIZE, CLASSES + 4))
    maps = [keras.layers.MaxPooling2D(1, strides=stride)(image) for stride in strides]
    return keras.Model(image, maps if len(maps) > 1 else maps[0], name="reader")


def check(model: keras.Model, outputs: dict[str, np.ndarray], images: np.ndarray) -> None:
    maps = keras.tree.flatten(model.predict(images, verbose=0))
    found = decode(maps, SIZE, **OPTIONS)
    counts = [len(each.boxes) for each in found]
    assert min(counts) >= 5
    if OPTIONS["max_detections"] == 100:
        # Some boxes overlap, so this tests suppression too.
        every = decode(maps, SIZE, **{**OPTIONS, "overlap": 1.0})
        assert sum(counts) < sum(len(each.boxes) for each in every)
    for number, each in enumerate(found):
        kept = outputs["confidences"][number] > 0
        np.testing.assert_array_equal(outputs["classes"][number][kept], each.labels)
        np.testing.assert_allclose(outputs["confidences"][number][kept], each.scores, rtol=1e-5)
        np.testing.assert_allclose(outputs["boxes"][number][kept], each.boxes, atol=1e-4)


@pytest.mark.parametrize("limit", [100, 5])
@pytest.mark.parametrize("strides", [(4,), (4, 8, 16)])
def test_the_boxes_are_those_of_decode(
    strides: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPTIONS, "max_detections", limit)
    model, images = reader(strides), maps_in_images(30, 0)
    outputs = with_boxes(model, **OPTIONS).predict(images, verbose=0)
    assert outputs["boxes"].shape == (len(images), 100, 4)
    check(model, outputs, images)


def test_an_image_without_objects_has_no_confident_box() -> None:
    images = maps_in_images(2, 0)
    images[..., :CLASSES] = -9
    outputs = with_boxes(reader((4,)), **OPTIONS).predict(images, verbose=0)
    assert not outputs["confidences"].any()


def test_a_program_without_cnnforge_opens_the_model(tmp_path: Path) -> None:
    model, images = reader((4, 8)), maps_in_images(4, 1)
    exported = with_boxes(model, **OPTIONS)
    modules = {type(each).__module__.partition(".")[0] for each in exported.operations}
    assert modules == {"keras"}
    paths = [str(tmp_path / name) for name in ("boxes.keras", "images.npy", "outputs.npz")]
    exported.save(paths[0])
    np.save(paths[1], images)
    command = [sys.executable, "-c", SCRIPT, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout.strip().lower()) is False
    with np.load(paths[2]) as outputs:
        check(model, dict(outputs), images)
