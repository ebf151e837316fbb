"""The documents name every command and every option."""

import re
from pathlib import Path

import typer

from cnnforge.cli.app import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))]
NAMED = set(re.findall(r"--[a-z][a-z0-9-]*", "".join(DOCS)))


def commands(command=None, path=("cnnforge",)):
    """Yield each command of the program, with its words."""
    command = typer.main.get_command(app) if command is None else command
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield " ".join(path), command
    for name, each in inner.items():
        yield from commands(each, (*path, name))


def test_the_readme_names_each_command():
    names = [name for name, _ in commands()]
    assert len(names) > 15
    assert [name for name in names if name not in README] == []


def test_the_documents_name_each_option():
    missing = []
    for name, command in commands():
        for option in command.params:
            # `--no-x` tells of `--x`, too.
            forms = [it for it in (*option.opts, *option.secondary_opts) if it.startswith("--")]
            if forms and not NAMED.intersection(forms):
                missing.append(f"{name} {forms[0]}")
    assert missing == []
