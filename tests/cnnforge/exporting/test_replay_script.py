"""The script that runs exported models imports nothing of cnnforge, and cannot."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cnnforge.exporting import replay_script

SCRIPT = Path(replay_script.__file__)
CODE = """
import runpy, sys
script = runpy.run_path(sys.argv[1])
script["hide"](["cnnforge"])
try:
    import cnnforge.errors
except ImportError:
    print("hidden")
"""


def test_a_hidden_package_cannot_be_imported():
    command = [sys.executable, "-I", "-c", CODE, str(SCRIPT)]
    assert subprocess.check_output(command, text=True) == "hidden\n"


OPENS = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("replay_script", sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
script.OPENERS[sys.argv[2]] = lambda path: __import__(sys.argv[3])
np.save("images.npy", np.zeros((1, 2, 2, 1), np.uint8))
try:
    script.main(sys.argv[2], "model", "images.npy", "outputs.npz")
except ModuleNotFoundError:
    print("hidden")
"""


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("keras", "cnnforge"),
        ("keras", "cnnforge_plugins"),
        ("onnx", "cnnforge_kernels"),
        ("plan", "cnnforge"),
        ("plan", "keras"),
        ("plan", "tensorflow"),
    ],
)
def test_a_model_is_opened_without_the_packages_that_its_format_does_not_need(
    kind, module, tmp_path
):
    command = [sys.executable, "-I", "-c", OPENS, str(SCRIPT), kind, module]
    assert subprocess.check_output(command, text=True, cwd=tmp_path) == "hidden\n"


def test_the_script_imports_nothing_of_cnnforge():
    names = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert not [name for name in names if str(name).startswith("cnnforge")]


def test_outputs_have_names():
    flat = dict(replay_script.flat({"b": [1, 2], "a": 3}))
    assert {name: int(value) for name, value in flat.items()} == {"a": 3, "b_0": 1, "b_1": 2}
    assert [name for name, _ in replay_script.flat(1)] == ["output"]
