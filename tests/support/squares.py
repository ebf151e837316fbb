"""Pictures with dark and bright squares, and their boxes as labels of YOLO."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("dark", "bright <b>")
_VALUES = (20, 230)


def scene(
    random: np.random.Generator, size: tuple[int, int], count: int
) -> tuple[np.ndarray, list[tuple[int, int, int, int, int]]]:
    """Draw squares that do not overlap.

    Args:
        random: Random numbers.
        size: Height and width.
        count: Max number of squares.

    Returns:
        The picture, (H, W) uint8, and `x1 y1 x2 y2 class` of each square.
    """
    height, width = size
    pixels = random.normal(110, 12, size)
    free = np.ones(size, bool)
    squares = []
    for _ in range(count):
        side = int(random.integers(10, 20))
        x, y = (int(random.integers(1, length - side - 1)) for length in (width, height))
        label = int(random.integers(2))
        if free[y : y + side, x : x + side].all():
            free[max(0, y - 2) : y + side + 2, max(0, x - 2) : x + side + 2] = False
            pixels[y : y + side, x : x + side] = _VALUES[label]
            squares.append((x, y, x + side, y + side, label))
    return pixels.clip(0, 255).astype(np.uint8), squares


def write_yolo(folder: Path, count: int, seed: int = 0) -> Path:
    """Write pictures of different sizes, every eighth without objects.

    Args:
        folder: Folder to make.
        count: Number of pictures.
        seed: Random seed.

    Returns:
        Path of the file `data.yaml`.
    """
    random = np.random.default_rng(seed)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        height, width = int(random.integers(50, 72)), int(random.integers(56, 90))
        pixels, squares = scene(random, (height, width), 3 if number % 8 else 0)
        lines = [
            f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
            f"{(x2 - x1) / width} {(y2 - y1) / height}\n"
            for x1, y1, x2, y2, label in squares
        ]
        Image.fromarray(pixels).save(folder / "images" / f"{number:03}.png")
        (folder / "labels" / f"{number:03}.txt").write_text("".join(lines))
    path = folder / "data.yaml"
    path.write_text(f"names: [{CLASSES[0]}, '{CLASSES[1]}']\ntrain: images\n")
    return path
