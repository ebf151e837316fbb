"""Figures do not depend on how Matplotlib is configured."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from cnnforge.reporting.drawing import new_figure, style, write
with style():
    figure = new_figure(1, 1)
    figure.subplots().set_title("$x")
    write(figure, Path(sys.argv[1]))
"""
CONFIGURATIONS = {
    "nothing": b"",
    "not text": b"\xff\xfe\x00",
    "TeX": b"text.usetex: True\nbackend: nowhere\n",
    "wrong values": b"no colon\nfigure.dpi: -1\nfont.family: no such font\nsavefig.format: svg\n",
}


def draw(folder: Path, **environment: str) -> bytes:
    path = folder / "figure.png"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        cwd=folder,
        env={"PATH": "", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return path.read_bytes()


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return draw(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("content", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize("name", ["matplotlibrc", ".config/matplotlib/matplotlibrc"])
def test_a_configuration_has_no_effect(
    usual: bytes, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    assert draw(tmp_path) == usual


@pytest.mark.parametrize("backend", ["nonsense", "module://nowhere.backend", "TkAgg", ""])
def test_a_backend_has_no_effect(usual: bytes, tmp_path: Path, backend: str) -> None:
    assert draw(tmp_path, MPLBACKEND=backend) == usual
