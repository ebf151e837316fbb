"""Annotated pictures, and real annotated photographs that other packages contain."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image

LABELME = "CNNFORGE_LABELME_SDIST"
STARDIST = "CNNFORGE_STARDIST_WHEEL"


def write_pictures(folder: Path, count: int, size=(40, 30), seed=0) -> list[str]:
    """Write `0.png` and so on, all different; `size` is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        photo(seed + number, size).save(folder / name)
    return names


def coco(boxes, *, names=("cat", "dog"), count=None, size=(40, 30)) -> dict:
    """Return a document of COCO: `boxes` has (image number, class number, bbox) for each box."""
    count = 1 + max(image for image, *_ in boxes) if count is None else count
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]}
            for number in range(count)
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": label, "bbox": list(box)}
            for number, (image, label, box) in enumerate(boxes, 1)
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(names)],
    }


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def given_file(variable: str, package: str) -> Path:
    """Return a file that an environment variable names; skip the test without it."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} does not name the file of {package}: see CONTRIBUTING.md")
    return Path(path)


def labelme_examples(folder: Path) -> Path:
    """Unpack the annotated photographs of labelme's source archive. Return their folder."""
    with tarfile.open(given_file(LABELME, "labelme")) as archive:
        members = [
            member
            for member in archive.getmembers()
            if "/examples/bbox_detection/" in member.name
            or "/examples/instance_segmentation/data_dataset_coco/" in member.name
        ]
        archive.extractall(folder, members, filter="data")
    return next(folder.glob("labelme-*/examples"))


def nuclei() -> tuple[np.ndarray, np.ndarray]:
    """Return the photograph of nuclei in stardist's wheel, and their boxes.

    Returns:
        (512, 512) uint8 and (n, 4) float64 `x1 y1 x2 y2` in pixels.
    """
    with zipfile.ZipFile(given_file(STARDIST, "stardist")) as archive:
        image, mask = (
            np.asarray(Image.open(io.BytesIO(archive.read(f"stardist/data/images/{name}2d.tif"))))
            for name in ("img", "mask")
        )
    boxes = []
    for number in np.unique(mask[mask > 0]):
        rows, columns = (np.flatnonzero((mask == number).any(axis=axis)) for axis in (1, 0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return image.clip(0, 255).astype(np.uint8), np.array(boxes, np.float64)
