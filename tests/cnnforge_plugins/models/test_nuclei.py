"""A detector learns to find nuclei in a real photograph within a minute of training."""

import json
from pathlib import Path

import pytest
from boxes import nuclei

from cnnforge.cli.app import main

PLUGIN = '''
"""Crops of the photograph: random ones of its left part, and four tiles of its right part."""

import hashlib

import numpy as np
from boxes import nuclei

from cnnforge.data import Dataset
from cnnforge.data.boxes.samples import DetectionArrays
from cnnforge.plugin import DatasetSpec, hookimpl

SIDE, BORDER, MIN_SIDE = 128, 384, 6
IMAGE, BOXES = nuclei()


@hookimpl
def cnnforge_datasets():
    return [DatasetSpec(name="nuclei", target="nuclei_data:load", summary="", task="detection")]


def crop(x, y, turns, mirrored):
    pixels = IMAGE[y : y + SIDE, x : x + SIDE]
    boxes = np.clip(BOXES - [x, y, x, y], 0, SIDE)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= MIN_SIDE]
    for _ in range(turns):  # by a quarter to the left
        pixels = np.rot90(pixels)
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([y1, SIDE - x2, y2, SIDE - x1], axis=1)
    if mirrored:
        pixels = pixels[:, ::-1]
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([SIDE - x2, y1, SIDE - x1, y2], axis=1)
    return pixels, boxes


def samples(places, name):
    pixels, boxes = zip(*(crop(*place) for place in places))
    labels = [np.zeros(len(each), np.int32) for each in boxes]
    names = [f"{name} {number}" for number in range(len(places))]
    return DetectionArrays(np.stack(pixels)[..., None], list(boxes), labels, names)


def load(argument, options):
    random = np.random.default_rng(0)
    places = [
        (
            int(random.integers(BORDER - SIDE + 1)),
            int(random.integers(512 - SIDE + 1)),
            int(random.integers(4)),
            bool(random.integers(2)),
        )
        for _ in range(800)
    ]
    train = samples(places, "left")
    right = samples([(BORDER, y, 0, False) for y in range(0, 512, SIDE)], "right")
    digest = hashlib.sha256(train.images.tobytes()).hexdigest()
    return Dataset("nuclei", ("nucleus",), train, right, digest, task="detection")
'''


@pytest.mark.slow
def test_nuclei_of_the_right_quarter_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, boxes = nuclei()
    assert (image.shape, len(boxes)) == ((512, 512), 125)
    plugin = tmp_path / "nuclei_data.py"
    plugin.write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    command = ["train", "detector", "--data", "nuclei", "--plugin", str(plugin)]
    assert main([*command, "--epochs", "10", "--kernels", "numba", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    # Training took 38 seconds on a machine with other work; its time is not tested.
    assert result["validation"]["map50"] >= 0.9
