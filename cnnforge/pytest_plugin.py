"""Fixtures for the tests of plugins, which pytest finds wherever cnnforge is installed.

Light: every run of pytest in the environment imports this module, whatever it tests.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cnnforge.plugin_host.discovery import Plugins


@pytest.fixture
def isolated_plugins(
    monkeypatch: pytest.MonkeyPatch, forgotten_modules: None
) -> Callable[..., Plugins]:
    """No plugin is loaded, not even the built-in one, but those that the test names.

    Returns:
        `isolate(*plugins)`, which loads plugins as `--plugin` does (a file or a module each) and
        returns the `cnnforge.plugin_host.discovery.Plugins`.

    Example:
        ```python
        def test_it(isolated_plugins):
            plugins = isolated_plugins("acme_layers.manifest")
            assert list(plugins.layers) == ["acme_layers.manifest/gabor"]
        ```
    """
    from cnnforge.plugin_host.discovery import AUTOLOAD_VARIABLE, DISABLED_VARIABLE, discover

    monkeypatch.setenv(AUTOLOAD_VARIABLE, "0")
    monkeypatch.delenv(DISABLED_VARIABLE, raising=False)
    return lambda *plugins: discover([str(plugin) for plugin in plugins])


@pytest.fixture
def install_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten_modules: None
) -> Callable[..., Path]:
    """Plugins that are installed for one test.

    Returns:
        `install(name, source, distribution="acme-NAME", version="1.0")`, which makes a
        distribution with one module and the entry point `name`, and returns the path of the
        module. Its name is that of the distribution, with underscores.

    Example:
        ```python
        def test_it(install_plugin):
            install_plugin("mine", "from cnnforge.plugin import ...")
            assert "mine/gabor" in cnnforge.plugin_host.discovery.discover().layers
        ```
    """
    folder = tmp_path / "installed_plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def install(name: str, source: str, distribution: str = "", version: str = "1.0") -> Path:
        distribution = distribution or f"acme-{name}"
        module = distribution.replace("-", "_")
        path = folder / f"{module}.py"
        path.write_text(dedent(source))
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[cnnforge]\n{name} = {module}\n")
        importlib.invalidate_caches()
        return path

    return install


@pytest.fixture
def forgotten_modules(tmp_path: Path) -> Iterator[None]:
    """What a test imports from its own folder is imported anew by the next one."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]
