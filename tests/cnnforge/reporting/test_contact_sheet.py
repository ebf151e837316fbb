"""Contact sheets."""

import numpy as np
import pytest
from PIL import Image

from cnnforge.reporting.contact_sheet import MAX_ROWS, SheetRow, contact_sheet, some_rows

RED, BLUE = (255, 0, 0), (0, 0, 255)


def image(height: int, width: int, color: tuple[int, int, int] = RED) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def box(path, color: tuple[int, int, int]) -> tuple[int, int]:
    """Return width and height of the area with a color."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    rows, columns = np.nonzero((pixels == color).all(axis=2))
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


@pytest.mark.parametrize(
    ("size", "shown"),
    [((28, 28), (84, 84)), ((20, 10), (40, 80)), ((300, 600), (84, 42)), ((84, 60), (60, 84))],
)
def test_the_aspect_ratio_is_kept(size, shown, tmp_path):
    path = tmp_path / "sheet.png"
    contact_sheet(path, [SheetRow("a", [image(*size)])], title="one")
    width, height = box(path, RED)
    assert abs(width - shown[0]) <= 1
    assert abs(height - shown[1]) <= 1


def test_rows_of_different_length_and_gray_images(tmp_path):
    path = tmp_path / "sheet.png"
    gray = np.zeros((9, 9, 1), np.uint8)
    rows = [
        SheetRow("a", [gray, image(9, 9), gray], "3 images"),
        SheetRow("b", []),
        SheetRow("", []),
    ]
    assert contact_sheet(path, rows, title="t", headings=["x", "y", "z"]) == []
    with Image.open(path) as sheet:
        assert sheet.height > 3 * 84


def test_names_in_any_script(tmp_path):
    names = ["кошка", "猫", "قطة", "$a$ and $b$", "a\nb", "x" * 500, ""]
    rows = [SheetRow(name, [image(9, 9)]) for name in names]
    replaced = contact_sheet(tmp_path / "sheet.png", rows, title="t")
    assert set(replaced) <= {"猫", "قطة"}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width < 1000


def test_rows_at_equal_steps():
    assert some_rows(3) == [0, 1, 2]
    chosen = some_rows(1000)
    assert len(chosen) == MAX_ROWS
    assert chosen[:3] == [0, 25, 50]


def test_equal_images_give_equal_files(tmp_path):
    rows = [SheetRow("a", [image(9, 9), image(5, 5, BLUE)])]
    for name in ("one.png", "two.png"):
        contact_sheet(tmp_path / name, rows, title="t")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
