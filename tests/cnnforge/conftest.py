"""Plugins that are installed for one test."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

PLUGIN_HEADER = "from cnnforge.plugin import DatasetSpec, LayerSpec, ModelSpec, Spec, hookimpl\n"


@pytest.fixture(autouse=True)
def _no_plugin_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CNNFORGE_PLUGIN_AUTOLOAD", raising=False)
    monkeypatch.delenv("CNNFORGE_DISABLED_PLUGINS", raising=False)


@pytest.fixture
def install_plugin(install_plugin: Callable[..., Path]) -> Callable[..., Path]:
    """Return `install(name, source)`: as the public fixture, with the imports in front."""

    def install(name: str, source: str, distribution: str = "") -> Path:
        return install_plugin(name, PLUGIN_HEADER + dedent(source), distribution)

    return install


@pytest.fixture
def write_plugin(tmp_path: Path, forgotten_modules: None) -> Callable[..., str]:
    """Return `write(name, source)`: a file for `--plugin`, of which it returns the path."""

    def write(name: str, source: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(PLUGIN_HEADER + dedent(source))
        return str(path)

    return write
