"""The commands of messages and documents that install an extra."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def hints():
    """Yield each file with an extra that it names."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for folder in ("cnnforge", "kernels", "plugins"):
        paths += (ROOT / folder).rglob("*.py")
    for path in paths:
        for extra in re.findall(r"cnnforge\[([^\]]*)\]", path.read_text(encoding="utf-8")):
            yield path, extra


def test_the_extras_exist():
    found = list(hints())
    assert {"serve", "sweep", "torch", "lite0"} <= {extra for _, extra in found}
    # A message may insert the name of the extra.
    wrong = [(path, name) for path, name in found if name not in EXTRAS and "{" not in name]
    assert wrong == []


def test_pip_takes_the_cnnforge_that_is_installed():
    """So the same command is right for a wheel and for a clone, whatever an index has."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--dry-run", "cnnforge[test]"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Requirement already satisfied: cnnforge[test] in " in done.stdout
    assert "Would install" not in done.stdout
