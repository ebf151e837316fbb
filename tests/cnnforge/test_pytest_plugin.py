"""The fixtures for authors of plugins, and what loading them costs."""

import os
import subprocess
import sys

import pytest

from cnnforge.plugin_host.discovery import discover

LINEAR = """
    from cnnforge.plugin import ModelSpec, hookimpl

    @hookimpl
    def cnnforge_models():
        return [ModelSpec(name="linear", target="acme_line:build", summary="one layer")]

    def build(input_shape, classes): ...
"""
# The project's own conftest.py puts imports in front of what it installs: not in these.
HEADER = "from cnnforge.plugin import ModelSpec, hookimpl\n"


def test_installed_plugin(install_plugin):
    path = install_plugin("line", LINEAR)
    found = discover()
    assert "line/linear" in found.models
    (record,) = [it for it in found.records if it.name == "line"]
    assert (record.distribution, record.version) == ("acme-line", "1.0")
    assert found.models["line/linear"].load().__module__ == path.stem == "acme_line"


def test_it_is_gone_afterwards():
    assert "acme_line" not in sys.modules
    assert "line/linear" not in discover().models


def test_isolated(isolated_plugins, tmp_path):
    nothing = isolated_plugins()
    assert nothing.records == []
    path = tmp_path / "acme_alone.py"
    path.write_text(HEADER + "@hookimpl\ndef cnnforge_models():\n    return []\n")
    assert [it.name for it in isolated_plugins(path).records] == ["acme_alone"]
    assert list(discover().layers) == []


def test_isolation_ends():
    assert "acme_alone" not in sys.modules
    assert "builtin/conv2d" in discover().layers


@pytest.fixture
def run_pytest(tmp_path):
    """Return `run(source, *options)`: runs a test file elsewhere, returns status and output."""

    def run(source, *options):
        (tmp_path / "test_elsewhere.py").write_text(source)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-W", "error", *options, "test_elsewhere.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTEST_ADDOPTS": "-p no:cacheprovider"},
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_elsewhere_it_costs_no_heavy_import(run_pytest):
    names = "'keras', 'tensorflow', 'numpy', 'numba', 'cnnforge.plugin_host.discovery'"
    status, output = run_pytest(
        f"import sys\ndef test_it():\n    assert not {{{names}}} & set(sys.modules)\n"
    )
    assert status == 0, output


def test_elsewhere_the_fixtures_are_there(run_pytest):
    status, output = run_pytest(
        "def test_it(isolated_plugins, install_plugin):\n"
        "    install_plugin('mine', '')\n"
        "    assert isolated_plugins().records == []\n"
    )
    assert status == 0, output


def test_it_can_be_switched_off(run_pytest):
    status, output = run_pytest("def test_it(isolated_plugins): pass\n", "-p", "no:cnnforge")
    assert status == 1
    assert "fixture 'isolated_plugins' not found" in output
