"""Folders and modules stay small enough to be read."""

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("cnnforge", "kernels", "plugins", "benchmarks")
MAX_FILES, MAX_LINES = 22, 400


def sources() -> list[Path]:
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(found) > 200
    return found


def test_no_folder_has_too_many_modules():
    files = Counter(path.parent for path in sources())
    crowded = {str(folder.relative_to(ROOT)): n for folder, n in files.items() if n > MAX_FILES}
    assert not crowded


def test_no_module_is_too_long():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert not {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > MAX_LINES}
