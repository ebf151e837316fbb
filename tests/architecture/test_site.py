"""docs/conf.py translates docstrings to the language of the site's generator."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
CONF = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "conf.py"))


def translated(docstring: str) -> list[str]:
    lines = docstring.splitlines()
    CONF["_to_rst"](None, "function", "name", None, None, lines)
    return lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("the `name`s of ``two``", r"the :py:obj:`name`\ s of :py:obj:`two`"),
        ("`a b`, `x[0]`", "``a b``, ``x[0]``"),
        ("2*3 | a_, b_c", r"2\*3 \| a\_, b_c"),
        ("  * an item *with* stars", r"  * an item \*with\* stars"),
        (">>> 2 * `3`", ">>> 2 * `3`"),
    ],
)
def test_a_line(line, expected):
    assert translated(line) == [expected]


def test_a_fenced_block():
    lines = translated("Example:\n    ```python\n    a * b\n\n    c\n    ```\nend *")
    assert lines == [
        "Example:",
        "",
        "    .. code-block:: python",
        "",
        "        a * b",
        "",
        "        c",
        "",
        r"end \*",
    ]


def test_a_signature():
    printed = "(a: ~numpy.ndarray[tuple[~typing.Any, ...], ~numpy.dtype[~numpy.float32]], b: int)"
    arguments, returns = CONF["_shorten"](None, "", "", None, None, printed, None)
    assert arguments == "(a: NDArray[~numpy.float32], b: int)"
    assert returns is None


def test_every_page_of_the_contents_exists():
    root = Path(__file__).parents[2]
    for entries in CONF["CONTENTS"].values():
        for entry in entries:
            path = root / entry if entry.endswith("/") else root / f"{entry}.md"
            assert path.exists(), entry
