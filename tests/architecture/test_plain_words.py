"""Docstrings, comments, messages and pages avoid the words that CONTRIBUTING.md lists.

The words come from texts that readers had to read twice. A new text may be hard to read without
them: the test is no replacement for a reader.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("cnnforge", "kernels", "plugins", "benchmarks", "docs", "tests")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")

WORDS = {
    r"\banew\b": "again",
    r"(?<![Tt]here )\b(is|are|was|were|be) no (?!longer|more)[a-z]+\b": "is not a",
    r"\b(is|are|was|were) none\b": "is not",
    r"\basked for wrongly\b": "usage error",
    r"\bwho (comes|has|have|looks|finds|does|calls|adds|needs|asks|wants|knows|reads|sees)\b": (
        "name the actor: the parent, the worker, the caller"
    ),
    r"\bput up with\b": "accept",
    r"\bshall\b": "must, or will",
    r"\bbeside\b": "next to, or compared with",
    r"\b(in|by) turns?\b": "alternately",
    r"\bonce more\b": "again",
    r"\bso (many|long|much|few)\b": "this many, or as long as",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bcomes? up to\b": "reaches",
    r"[a-z]'s\.$": "the noun is missing",
    r"\bsays? so\b": "write what it says",
    r"\bcrew\b": "thread pool",
    r"\bculprit\b": "the first non-finite value",
    r"\bof use\b": "useful",
    r"\bput together\b": "combine",
    r"\b(any|some|no)body's\b": "name the owner",
}
FIRST_WORD = r"(What|Where|Which|How|Who)\b"
ARGUMENT = r"\s+\w+( \([^)]*\))?: (Of|Those|That of|What|How|Which|Where|Who|As)\b"
CONSTANT = r"_?(.*_)?(MOST|LEAST|FEWEST|LARGEST|SMALLEST|ENOUGH)(_.*)?"


def findings(text: str) -> Iterator[str]:
    """Yield each line with a word of the list, and a better word."""
    for line in text.splitlines():
        for pattern, better in WORDS.items():
            if match := re.search(pattern, line):
                yield f"{match[0]!r}, better {better!r}: {line.strip()}"


def findings_in_docstring(text: str) -> Iterator[str]:
    """Yield findings, and lines that begin with a clause instead of a noun or a verb."""
    yield from findings(text)
    if re.match(FIRST_WORD, text.strip()):
        yield f"a docstring begins with subject and verb: {text.strip().splitlines()[0]}"
    for line in text.splitlines():
        if re.match(ARGUMENT, line):
            yield f"an argument is described by a noun: {line.strip()}"


def is_message(value: object) -> bool:
    """Return whether a constant is a text with a space."""
    return isinstance(value, str) and " " in value


def findings_in_python(source: str) -> Iterator[str]:
    """Yield findings in docstrings, comments, messages and names of constants."""
    documented = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node) is not None:
                constant = node.body[0].value  # pyright: ignore[reportAttributeAccessIssue]
                documented.add(constant)
                yield from findings_in_docstring(constant.value)
        elif isinstance(node, ast.Constant) and node not in documented and is_message(node.value):
            yield from findings(node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from findings(token.string)
        elif token.type == tokenize.NAME and re.fullmatch(CONSTANT, token.string):
            yield f"constants are called MAX_* or MIN_*: {token.string}"


def texts() -> list[Path]:
    found = [ROOT / page for page in PAGES]
    for folder in FOLDERS:
        paths = sorted((ROOT / folder).rglob("*"))
        # This file has the words themselves; results are written by programs.
        found += [
            path
            for path in paths
            if path.suffix in (".py", ".md")
            and "results" not in path.parts
            and path != Path(__file__)
        ]
    return found


def test_texts_use_plain_words():
    found = []
    for path in texts():
        text = path.read_text(encoding="utf-8")
        lines = findings_in_python(text) if path.suffix == ".py" else findings(text)
        found += [f"{path.relative_to(ROOT)}: {line}" for line in lines]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        '"""What it does."""',
        '"""Read it anew."""',
        "# It is none.",
        'error = f"there are {n} files beside it"',
        "_MOST_FILES = 3",
        'def f(seed):\n    """Do it.\n\n    Args:\n        seed: Of the inputs.\n    """',
    ],
)
def test_the_test_finds(source):
    assert list(findings_in_python(source))
