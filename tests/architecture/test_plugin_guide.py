"""Every block of code in docs/plugins.md stands in a file that is tested."""

import re
from pathlib import Path

import pytest

from cnnforge.plugin_host.scaffold import create

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "plugins.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("package")
    package = create("soft-edge", "layer", folder / "plain").folder
    with_cuda = create("soft-edge", "layer", folder / "cuda", cuda=True).folder
    example = ROOT / "plugins" / "example"
    files = [
        *package.rglob("*.py"),
        *with_cuda.rglob("*.py"),
        *(example / "src").rglob("*.py"),
        ROOT / "README.md",
    ]
    return [path.read_text() for path in files]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_code_is_taken_from_a_tested_file(sources, number):
    assert any(BLOCKS[number] in text for text in sources), BLOCKS[number]


def test_a_layer_fits_on_a_screen():
    lines = BLOCKS[0].splitlines()
    assert len([line for line in lines if line]) <= 28
    assert max(map(len, lines)) <= 100
