"""The script that runs exported models imports nothing of cnnforge, and cannot."""

import ast
import subprocess
import sys
from pathlib import Path

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
