"""Imports of the start-up path, seen in a fresh process."""

import json
import subprocess
import sys

import pytest

HEAVY = ("keras", "tensorflow", "numba", "numpy", "matplotlib")
START_UP_PATH = (
    "cnnforge.cli",
    "cnnforge.plugin_host.discovery",
    "cnnforge.plugin_host.registry",
    "cnnforge.plugin_host.hookspecs",
    "cnnforge.plugin",
    "cnnforge.errors",
    "cnnforge_plugins.manifest",
)


def modules_after(code: str) -> set[str]:
    """Return the top-level names of all modules that a fresh process has after running `code`."""
    report = "import json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    output = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], check=True, capture_output=True, text=True
    ).stdout
    return set(json.loads(output.splitlines()[-1]))


@pytest.mark.parametrize("module", START_UP_PATH)
def test_importing_is_light(module):
    assert modules_after(f"import {module}").isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["data", "--help"],
        ["data", "check", "--help"],
        ["data", "convert", "--help"],
        ["data", "show", "--help"],
        ["plugins"],
        ["plugins", "--json"],
        ["runs", "."],
    ],
)
def test_commands_are_light(arguments):
    modules = modules_after(f"from cnnforge.cli import main; assert main({arguments}) == 0")
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "--json"], ["--version"]])
def test_only_what_draws_imports_rich(arguments):
    modules = modules_after(f"from cnnforge.cli import main; assert main({arguments}) == 0")
    assert "rich" not in modules


def test_the_check_sees_a_heavy_import():
    assert "numpy" in modules_after("import numpy")


def test_help_takes_less_than_half_a_second():
    code = (
        "import resource; from cnnforge.cli import main; main(['--help']);"
        "usage = resource.getrusage(resource.RUSAGE_SELF);"
        "print(usage.ru_utime + usage.ru_stime)"
    )
    # Processor time, and the best of three: what else the machine does is not measured.
    seconds = [
        float(subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1])
        for _ in range(3)
    ]
    assert min(seconds) < 0.5
