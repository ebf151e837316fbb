"""Only one module uses Keras' private API."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOOR = ROOT / "cnnforge" / "utils" / "keras_graph.py"
PRIVATE = re.compile(
    r"_flatten_layers|_inbound_nodes|_nodes_by_depth|_keras_history|\._functional\b|keras\.src\b"
)
SOURCES = [
    path
    for folder in ("cnnforge", "plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != DOOR and "build" not in path.parts
]


def test_the_search_finds_the_names():
    assert len(set(PRIVATE.findall(DOOR.read_text()))) == 6
    assert len(SOURCES) > 100


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_uses_it(path):
    assert not PRIVATE.search(path.read_text()), f"{path} should use {DOOR.name}"
