"""Plugins that are installed for one test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

PLUGIN_HEADER = "from cnnforge.plugin import DatasetSpec, LayerSpec, ModelSpec, Spec, hookimpl\n"


@pytest.fixture(autouse=True)
def _no_plugin_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CNNFORGE_PLUGIN_AUTOLOAD", raising=False)
    monkeypatch.delenv("CNNFORGE_DISABLED_PLUGINS", raising=False)


@pytest.fixture
def _modules_are_forgotten() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("acme"):
            del sys.modules[name]


@pytest.fixture
def install_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _modules_are_forgotten: None
) -> Callable[..., None]:
    """Return `install(name, source)`: a distribution `acme-NAME` 1.0 with an entry point NAME."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, source: str, distribution: str = "") -> None:
        distribution = distribution or f"acme-{name}"
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(PLUGIN_HEADER + dedent(source))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[cnnforge]\n{name} = {module}\n")

    return install


@pytest.fixture
def write_plugin(tmp_path: Path, _modules_are_forgotten: None) -> Callable[..., str]:
    """Return `write(name, source)`: a file for `--plugin`, of which it returns the path."""

    def write(name: str, source: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(PLUGIN_HEADER + dedent(source))
        return str(path)

    return write
