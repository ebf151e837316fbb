"""The commands of docs/tutorial.md run, in their order, and leave the files that it names."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnforge.cli import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
COMMANDS = re.findall(r"^\$ cnnforge (.*)$", TEXT, re.MULTILINE)


def write_tables(folder: Path) -> None:
    """Write Kaggle's two tables: the pictures of the tutorial as rows."""
    header = ",".join(f"pixel{number}" for number in range(28 * 28))
    pictures = sorted(Path("pictures").glob("*/*.png"))
    rows = [",".join(map(str, np.asarray(Image.open(path)).ravel())) for path in pictures]
    classes = sorted({path.parent.name for path in pictures})
    labels = [classes.index(path.parent.name) for path in pictures]
    labelled = [f"{label},{row}" for label, row in zip(labels, rows, strict=True)]
    (folder / "train.csv").write_text("\n".join([f"label,{header}", *labelled]))
    (folder / "test.csv").write_text("\n".join([header, *rows[:7]]))


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert script is not None
    exec(script[1], {})
    write_tables(tmp_path)
    assert len(COMMANDS) == 13
    for command in COMMANDS:
        assert main(shlex.split(command)) == 0, command
    run = tmp_path / "runs" / "lenet-pictures-001"
    table = TEXT.partition("| file | content |")[2].partition("\n\n")[0]
    names = re.findall(r"`(\w+\.?\w*)/?`(?=[^|]*\|.*\|$)", table, re.MULTILINE)
    assert len(names) >= 8
    assert [name for name in names if not (run / name).exists()] == []
    assert (tmp_path / "answers.csv").read_text().startswith("ImageId,Label\n1,")
