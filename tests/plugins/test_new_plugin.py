"""From `cnnforge plugins new` to a trained network with the new layer: scripted and timed.

docs/plugins.md shows the same commands and what they print.
"""

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"
# Far more than it takes, about 45 seconds on two cores: "minutes" is what the guide promises.
MAX_SECONDS = 300
PIP = "python -m pip install"


def transcript() -> list[tuple[str, list[str]]]:
    """The guide's console blocks: each command with the lines that are shown below it."""
    steps: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
    return steps


def normal(line: str) -> str:
    """A line without what differs from machine to machine: numbers, and the width of tables."""
    return re.sub(r"\d[\d,.]*", "0", " ".join(re.sub("─+", "", line).split()))


@pytest.mark.slow
def test_the_walk(environment, record_property):
    steps = transcript()
    commands = [command for command, _ in steps]
    for wanted in ("plugins new", "pip install -e", "plugins check", "train", "pytest"):
        assert any(wanted in command for command in commands), wanted
    for command, shown in steps:
        # Without a network, hatchling is the one that is there.
        offline = command.replace("pip install", f"{PIP} --no-index --no-build-isolation")
        printed = [normal(line) for line in environment.run(offline).splitlines()]
        position = 0
        for line in shown:
            if line.strip() not in ("", "..."):
                assert normal(line) in printed[position:], f"{command}: {line}\n" + "\n".join(
                    printed
                )
                position = printed.index(normal(line), position) + 1
    record_property("seconds", environment.seconds)
    assert sum(environment.seconds.values()) < MAX_SECONDS, environment.seconds
