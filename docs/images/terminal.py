"""Draw docs/images/train.svg: what `cnnforge train` and `cnnforge predict` print.

Run it again if the output changes: `.venv/bin/python docs/images/terminal.py`.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COMMANDS = (
    "cnnforge train lenet --epochs 20",
    "cnnforge predict runs/lenet-mnist5k-001 mnist5k --limit 6",
)
# Epochs between these are left out of the picture.
FIRST, LAST = 3, 17


def printed(command: str, folder: str) -> list[str]:
    """The lines that a command prints, on both streams, in their order."""
    program = Path(sys.executable).parent / command.partition(" ")[0]
    done = subprocess.run(
        [program, *command.split()[1:]],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return [line.rstrip() for line in done.stdout.splitlines()]


def shorten(lines: list[str]) -> list[str]:
    """Replace the epochs in the middle with one line."""
    kept = []
    for line in lines:
        epoch = re.match(r"epoch +(\d+)/", line)
        number = int(epoch[1]) if epoch else 0
        if not FIRST < number < LAST:
            kept.append(line)
        elif number == FIRST + 1:
            kept.append("...")
    return kept


def main() -> None:
    """Run the commands and write the picture."""
    text = Text()
    with tempfile.TemporaryDirectory() as folder:
        # The first training on a machine compiles and measures kernels, and prints that.
        printed("cnnforge train lenet --epochs 1 --output first", folder)
        for command in COMMANDS:
            text.append(f"$ {command}\n", style="bold green")
            text.append("\n".join([*shorten(printed(command, folder)), ""]))
    width = max(map(len, text.plain.splitlines()))
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(text, end="", highlight=False)
    picture = console.export_svg(title="cnnforge", theme=MONOKAI)
    # The picture must not load fonts from elsewhere.
    picture = re.sub(r"@font-face \{.*?\}\n", "", picture, flags=re.DOTALL)
    Path(__file__).with_name("train.svg").write_text(picture)


if __name__ == "__main__":
    main()
