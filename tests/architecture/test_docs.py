"""Files, names, links and environment variables that the documentation mentions exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
PATH = r"(?:cnnforge|kernels|plugins|benchmarks|docs|tests)/[\w/]*[\w.]+"
# A path, and the names that follow it after commas: `cnnforge/cli/app.py`, `main`.
PLACE = re.compile(rf"`({PATH})`((?:,\s+`\w+`)*)")
VARIABLE = re.compile(r"\bCNNFORGE_[A-Z_]+\b")


def places() -> list[tuple[str, str, tuple[str, ...]]]:
    return [
        (page.name, path, tuple(re.findall(r"`(\w+)`", names)))
        for page in PAGES
        for path, names in PLACE.findall(page.read_text())
        # `x` stands for any name.
        if Path(path).stem not in ("x", "test_x")
    ]


def defined_in(path: Path) -> set[str]:
    """The names of a module: functions, classes, variables and imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_files_exist():
    assert [item for item in places() if not (ROOT / item[1]).exists()] == []


def test_names_stand_in_their_files():
    missing = [
        (page, path, name)
        for page, path, names in places()
        for name in names
        if path.endswith(".py") and name not in defined_in(ROOT / path)
    ]
    assert missing == []


def test_the_architecture_names_its_stops():
    assert len([item for item in places() if item[0] == "architecture.md" and item[2]]) >= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_exist(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose)
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_environment_variable_is_documented():
    sources = [*(ROOT / "cnnforge").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    used = {name for path in sources for name in VARIABLE.findall(path.read_text())}
    documented = {name for page in PAGES for name in VARIABLE.findall(page.read_text())}
    # A plugin declares its API in its own module.
    assert used - documented - {"CNNFORGE_PLUGIN_API"} == set()
