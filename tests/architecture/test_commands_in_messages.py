"""Commands in messages quote the paths in them, so that they can be copied into a shell."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A command, or an option that is named alone, and the path after it.
COMMAND = re.compile(
    r"(?:--(?:resume|init-from|config|logdir|determinism|plugin)|chmod \d+|cnnforge (?:predict|"
    r"evaluate|verify|explain|export|report|runs))(?: latest)? <(\d+)>"
)
# Functions of this module write the commands that several messages name.
COMMANDS = ROOT / "cnnforge" / "utils" / "names.py"
REPEATED = re.compile(r"train --resume <\d+>|from its weights use --init-from <\d+>")
QUOTED = ("as_argument(", "shlex.quote(", "shlex.join(")


def message(node: ast.AST) -> tuple[str, list[ast.expr]]:
    """Return the text of an f-string or of a call of the logger, and the values in it.

    The text has the number of a value in angle brackets in place of each value.
    """
    if isinstance(node, ast.JoinedStr):
        values = [each.value for each in node.values if isinstance(each, ast.FormattedValue)]
        numbers = iter(range(len(values)))
        parts = [
            str(each.value) if isinstance(each, ast.Constant) else f"<{next(numbers)}>"
            for each in node.values
        ]
        return "".join(parts), values
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        numbers = iter(range(len(node.args)))
        text = re.sub("%[sd]", lambda _: f"<{next(numbers)}>", str(node.args[0].value))
        return text, node.args[1:]
    return "", []


def unquoted(source: str) -> list[str]:
    """Return the expressions of the paths in commands that are not quoted."""
    found = []
    for text, values in map(message, ast.walk(ast.parse(source))):
        names = [ast.unparse(values[int(match[1])]) for match in COMMAND.finditer(text)]
        # A constant, such as the name of a file, has no blank.
        found += [name for name in names if not (name.startswith(QUOTED) or name.isupper())]
    return found


def repeated(source: str) -> list[str]:
    """Return the commands for which `COMMANDS` has a function."""
    texts = (text for text, _ in map(message, ast.walk(ast.parse(source))))
    return [match[0] for text in texts for match in REPEATED.finditer(text)]


def test_it_finds_them() -> None:
    assert unquoted("f\"go on with 'cnnforge train --resume {run.path}'\"") == ["run.path"]
    assert unquoted("log('%d: type cnnforge train --resume %s', 1, run.path)") == ["run.path"]
    assert unquoted('f"type: cnnforge predict {as_argument(run)} IMAGES"') == []


@pytest.mark.parametrize("package", ["cnnforge", "plugins"])
def test_paths_in_commands_are_quoted(package: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in unquoted(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_one_function_writes_a_command_that_several_messages_name() -> None:
    assert repeated(COMMANDS.read_text(encoding="utf-8"))
    found = [
        f"{path.relative_to(ROOT)}: {command}"
        for path in sorted((ROOT / "cnnforge").rglob("*.py"))
        if path != COMMANDS
        for command in repeated(path.read_text(encoding="utf-8"))
    ]
    assert found == []
