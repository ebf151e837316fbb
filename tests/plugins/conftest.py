"""An environment of its own for plugins, which sees what the tests' environment has installed."""

import os
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAM = "#!{python}\nimport sys\nfrom cnnforge.cli import main\nsys.exit(main())\n"


@dataclass
class Environment:
    """A virtual environment and a working directory.

    `seconds` is how long each command took.
    """

    folder: Path
    work: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, command: str, code: int = 0) -> str:
        """Run a line of shell; returns what it prints, messages and results together."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        begun = time.perf_counter()
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.work,
            env={**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.seconds[command] = time.perf_counter() - begun
        assert done.returncode == code, f"{command}\n{done.stdout}"
        return done.stdout

    def install(self, what: str) -> str:
        """Install with pip from a folder or a wheel, without a network."""
        return self.run(f"python -m pip install --no-index --no-build-isolation {what}")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A new environment: nothing is installed in it, all of the tests' own can be imported."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False)
    made = Environment(folder, tmp_path / "work")
    made.work.mkdir()
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    site = folder / "lib" / version / "site-packages"
    # Its .pth files are read too: the tests' own cnnforge may be an editable installation.
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (site / "tests.pth").write_text(line)
    program = folder / "bin" / "cnnforge"
    program.write_text(PROGRAM.format(python=made.python))
    program.chmod(0o755)
    return made
