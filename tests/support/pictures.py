"""Small image files for tests of data."""

from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, size: tuple[int, int] = (20, 15)) -> Image.Image:
    """Return a colour picture that depends on a seed; `size` is (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def write_classes(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write `CLASS/NUMBER.png` for each class, all with different content."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            photo(seed + 1000 * label + number).save(folder / name / f"{number}.png")
    return folder
