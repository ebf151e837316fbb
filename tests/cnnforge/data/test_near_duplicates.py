"""Images that look alike."""

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cnnforge.data import ArraySamples, ImageFiles
from cnnforge.data.inspection import near_duplicates
from cnnforge.data.inspection.near_duplicates import look_alike


def photo(seed: int) -> Image.Image:
    """Return a picture with smooth colours, as in a photograph."""
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((100, 75), Image.Resampling.BICUBIC)


def as_jpeg(image: Image.Image) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file)


CHANGES = {
    "jpeg": as_jpeg,
    "smaller": lambda image: image.resize((50, 37)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "gray": lambda image: image.convert("L"),
}


def groups(images: list[Image.Image], folder: Path) -> list[list[int]]:
    paths = []
    for number, image in enumerate(images):
        paths.append(str(folder / f"{number}.png"))
        image.save(paths[-1])
    digests = [hashlib.sha256(Path(path).read_bytes()).digest() for path in paths]
    return look_alike(ImageFiles(paths, np.zeros(len(paths)), (75, 100, 3)), digests)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(change, tmp_path):
    images = [photo(seed) for seed in range(12)]
    images += [CHANGES[change](images[seed]) for seed in (3, 7)]
    assert groups(images, tmp_path) == [[3, 12], [7, 13]]


def test_exact_copies_alone_are_no_group(tmp_path):
    images = [photo(0), photo(0), photo(1), photo(1), as_jpeg(photo(1))]
    assert groups(images, tmp_path) == [[2, 3, 4]]


def test_images_of_one_color_are_left_out(tmp_path):
    flat = [Image.new("RGB", (20, 20), (level, level, level)) for level in (0, 50, 51, 255)]
    assert groups(flat, tmp_path) == []


def test_images_in_arrays():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 18, 1), dtype=np.uint8)
    pixels[5] = pixels[2]
    pixels[5, 0, 0] ^= 1
    samples = ArraySamples(pixels, np.zeros(6), ["x"] * 6)
    assert look_alike(samples, [bytes([number]) for number in range(6)]) == [[2, 5]]


def test_all_pairs_of_similar_hashes_are_found(monkeypatch):
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, 300, dtype=np.uint64)
    for place in range(0, 300, 3):
        flips = generator.choice(64, generator.integers(0, 7), replace=False)
        hashes[place + 1] = hashes[place] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    expected = {
        (i, j)
        for i in range(300)
        for j in range(i + 1, 300)
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 4
    }
    monkeypatch.setattr(near_duplicates, "_BLOCK", 2)
    found = {
        tuple(sorted(pair))
        for left, right in near_duplicates._similar_pairs(hashes)
        for pair in zip(left.tolist(), right.tolist(), strict=True)
    }
    assert len(expected) > 50
    assert found == expected


def test_no_images_have_no_pairs():
    samples = ArraySamples(np.zeros((1, 4, 4, 1), np.uint8), np.zeros(1), ["x"])
    assert look_alike(samples, [b""]) == []


def test_many_equal_hashes_are_one_group(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_MANY", 10)
    base = np.random.default_rng(0).integers(0, 200, (1, 16, 18, 1), dtype=np.uint8)
    pixels = np.repeat(base, 300, axis=0)
    pixels[:, 0, 0, 0] = np.arange(300) % 256
    samples = ArraySamples(pixels, np.zeros(300), ["x"] * 300)
    digests = [str(number).encode() for number in range(300)]
    assert look_alike(samples, digests) == [list(range(300))]
