"""Every public name has its place in the API reference, docs/api."""

import ast
import importlib
import inspect
import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = ROOT / "docs" / "api"
INDEX = (API / "index.md").read_text()
PAGES = {page.stem: page.read_text() for page in API.glob("cnnforge*.md")}
# The import paths that stay from version to version.
PUBLIC = [
    "cnnforge",
    "cnnforge.callbacks",
    "cnnforge.conversion",
    "cnnforge.data",
    "cnnforge.errors",
    "cnnforge.ops",
    "cnnforge.plugin",
    "cnnforge.prediction",
    "cnnforge.tasks",
    "cnnforge.tasks.classification",
    "cnnforge.testing",
    "cnnforge.training",
    "cnnforge_kernels",
    "cnnforge_kernels.authoring",
    "cnnforge_kernels.cuda.launch",
    "cnnforge_kernels.plan",
    "cnnforge_kernels.reference",
]


def modules_with_all() -> list[str]:
    """The modules of the packages that say which of their names are public."""
    found = []
    for folder in (ROOT / "cnnforge", ROOT / "kernels" / "cnnforge_kernels"):
        for path in folder.rglob("*.py"):
            names = {
                target.id
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            if "__all__" in names:
                parts = path.relative_to(folder.parent).with_suffix("").parts
                found.append(".".join(part for part in parts if part != "__init__"))
    return found


def documented_values(module: str) -> set[str]:
    """The variables of a module that have a docstring below them."""
    path = importlib.import_module(module).__file__
    assert path is not None
    body = ast.parse(Path(path).read_text()).body
    return {
        target.id
        for node, after in pairwise(body)
        if isinstance(node, ast.Assign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def without_entry(module: str, page: str) -> list[str]:
    """The public names of a module that the generator finds no text for."""
    imported = importlib.import_module(module)
    listed = set(re.findall(r"^\.\. py:data:: (\w+)$", page, re.MULTILINE))
    listed |= documented_values(module)
    missing = []
    for name in imported.__all__:
        public = getattr(imported, name)
        # An intrinsic of Numba is a callable object.
        has_text = inspect.isclass(public) or callable(public)
        if name not in listed and not (has_text and inspect.getdoc(public)):
            missing.append(name)
    return missing


def test_every_public_module_has_a_page():
    assert set(PUBLIC) - set(PAGES) == set()
    assert set(modules_with_all()) - set(PAGES) == set()


@pytest.mark.parametrize("module", sorted(PAGES))
def test_a_page_shows_its_module(module):
    assert f".. automodule:: {module}\n" in PAGES[module]
    assert f"[{module}]({module}.md)" in INDEX
    assert f"\n{module}\n" in INDEX


@pytest.mark.parametrize("module", sorted(PAGES))
def test_every_public_name_has_an_entry(module):
    assert without_entry(module, PAGES[module]) == []


@pytest.mark.parametrize("module", sorted(PAGES))
def test_what_a_public_module_defines_is_public(module):
    imported = importlib.import_module(module)
    assert imported.__file__ is not None
    defined = {
        node.name
        for node in ast.parse(Path(imported.__file__).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert defined - set(imported.__all__) == set()


def test_a_missing_entry_is_found():
    page = PAGES["cnnforge.data"].replace("py:data:: Augment\n", "py:data:: Other\n")
    assert without_entry("cnnforge.data", page) == ["Augment"]
