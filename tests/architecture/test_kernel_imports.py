"""Authors of plugins see public modules of the kernels only: example, docs, new packages."""

import ast
import re
from pathlib import Path

import pytest

from cnnforge.plugin_host.scaffold import create

ROOT = Path(__file__).parents[2]
PUBLIC = {
    "cnnforge_kernels",
    "cnnforge_kernels.authoring",
    "cnnforge_kernels.cuda.launch",
    "cnnforge_kernels.plan",
    "cnnforge_kernels.reference",
}


def private_imports(source: str) -> set[str]:
    """The modules below `cnnforge_kernels` that a source imports though they are not public."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            # `from cnnforge_kernels import reference` imports a module, `conv2d` a function.
            parts = {f"{module}.{alias.name}" for alias in node.names}
            modules = {part for part in parts if is_module(part)}
            found |= modules or {module}
    return {name for name in found if name.split(".")[0] == "cnnforge_kernels"} - PUBLIC


def is_module(name: str) -> bool:
    path = ROOT / "kernels" / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import cnnforge_kernels", set()),
        ("from cnnforge_kernels import conv2d, reference", set()),
        ("from cnnforge_kernels.authoring import run_kernel", set()),
        ("from cnnforge_kernels import cpu", {"cnnforge_kernels.cpu"}),
        ("import cnnforge_kernels.cpu.simd", {"cnnforge_kernels.cpu.simd"}),
        (
            "from cnnforge_kernels.cpu.conv.conv2d import conv2d_forward",
            {"cnnforge_kernels.cpu.conv.conv2d"},
        ),
    ],
)
def test_private_imports_are_found(source, expected):
    assert private_imports(source) == expected


EXAMPLE = sorted((ROOT / "plugins" / "example").rglob("*.py"))


@pytest.mark.parametrize("path", EXAMPLE, ids=lambda path: path.name)
def test_example_plugin_imports_public_modules(path):
    assert private_imports(path.read_text()) == set()


@pytest.mark.parametrize("kind", ["layer", "dataset", "model"])
def test_new_package_imports_public_modules(kind, tmp_path):
    for path in create("soft-edge", kind, tmp_path).folder.rglob("*.py"):
        assert private_imports(path.read_text()) == set()


DOCUMENTS = [ROOT / "README.md", ROOT / "plugins" / "README.md", *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_docs_import_public_modules(path):
    lines = re.findall(r"^\s*(?:from|import) cnnforge_kernels.*$", path.read_text(), re.MULTILINE)
    for line in lines:
        # An import that goes on in the next line still names its module.
        complete = line.replace("(", "").strip().removesuffix(",")
        complete = complete if not complete.endswith("import") else f"{complete} x"
        assert private_imports(complete) == set(), line


def test_plugin_guide_names_public_modules():
    guide = (ROOT / "docs" / "plugins.md").read_text()
    assert set(re.findall(r"cnnforge_kernels(?:\.\w+)*", guide)) <= PUBLIC
