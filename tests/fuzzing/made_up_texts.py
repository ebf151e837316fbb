"""Make up texts that are well-formed but odd: JSON, TOML, YAML, XML, tables, and lines of these."""

from __future__ import annotations

import copy
import csv
import datetime
import io
import json
import tomllib
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import yaml
from fuzz_forms import VALUES
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

TEXTS = st.one_of(
    st.text(max_size=12),
    # Halves of pairs, which JSON can write and UTF-8 cannot.
    st.text(st.characters(exclude_categories=()), max_size=3),
    st.sampled_from([each for each in VALUES if isinstance(each, str)]),
)
NUMBERS = st.one_of(
    st.integers(-3, 70_000),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([each for each in VALUES if isinstance(each, int | float)]),
)
_LEAVES = st.one_of(NUMBERS, TEXTS, st.booleans(), st.none(), st.sampled_from(VALUES))
ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
_ENCODINGS = ("utf-8",) * 6 + ("utf-8-sig", "utf-16", "latin-1")


@st.composite
def like(draw: Draw, value: Any) -> Any:
    """Draw documents of the shape of a value, with other values, keys and lengths in some places.

    Args:
        draw: Given by hypothesis.
        value: A document of dictionaries, lists, texts, numbers, truth values and `None`.
    """
    holder = [copy.deepcopy(value)]
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(holder))
        parent, key = places[draw(st.integers(0, len(places) - 1))]
        _change(draw, parent, key, [p[k] for p, k in places])
    return holder[0]


def _places(parent: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(parent) if isinstance(parent, dict) else range(len(parent)):
        yield parent, key
        if isinstance(parent[key], dict | list):
            yield from _places(parent[key])


def _change(draw: Draw, parent: Any, key: Any, others: list[Any]) -> None:
    value = parent[key]
    action = draw(st.sampled_from(("same", "same", "any", "other", "length", "key", "remove")))
    if action == "same":
        parent[key] = copy.deepcopy(draw(_same(value)))
    elif action == "other":
        parent[key] = copy.deepcopy(others[draw(st.integers(0, len(others) - 1))])
    elif action == "length" and isinstance(value, list):
        parent[key] = value * draw(st.sampled_from((0, 2, 3, 40)))
    elif action == "length" and isinstance(value, dict):
        value[draw(TEXTS)] = copy.deepcopy(draw(ANYTHING))
    elif action == "key" and isinstance(parent, dict):
        parent[draw(TEXTS)] = parent.pop(key)
    elif action == "remove" and isinstance(parent, dict):
        del parent[key]
    else:
        parent[key] = copy.deepcopy(draw(ANYTHING))


def _same(value: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for values of the type of a value."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        close = st.sampled_from((value + 1, value - 1, -value, value * 2, float(min(value, 2**53))))
        return close | st.integers()
    if isinstance(value, float):
        return st.floats() | st.sampled_from((-value, value * 2, value + 1))
    if isinstance(value, str):
        forms = value.upper(), f" {value} ", value * 2, value[:1], value + "\n", value + "\u0301"
        return st.sampled_from(forms) | TEXTS
    if isinstance(value, list):
        return st.lists(st.sampled_from(value) if value else ANYTHING, max_size=5)
    if isinstance(value, dict):
        return st.dictionaries(TEXTS, st.sampled_from(list(value.values()) or [None]), max_size=3)
    return ANYTHING


def json_file(draw: Draw, content: bytes) -> bytes:
    """Return a JSON text like another one."""
    document = draw(like(json.loads(content)))
    indent, ascii_only = draw(st.sampled_from((None, None, 1, "\t"))), draw(st.booleans())
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    return _encoded(draw, text, ("utf-8",) * 8 + ("utf-8-sig", "utf-16"))


def json_lines(draw: Draw, content: bytes) -> bytes:
    """Return lines of JSON like others."""
    lines = [json.loads(line) for line in content.splitlines()]
    for _ in range(draw(st.integers(0, 2))):
        at, to = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        action = draw(st.sampled_from(("move", "repeat", "remove")))
        line = lines[at] if action == "repeat" or len(lines) == 1 else lines.pop(at)
        if action != "remove":
            lines.insert(to, line)
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = draw(like(lines[at]))
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


_MOMENTS = st.one_of(st.dates(), st.times(), st.datetimes(), st.datetimes(timezones=st.timezones()))


def toml_file(draw: Draw, content: bytes) -> bytes:
    """Return a TOML text like another one."""
    document = draw(like(tomllib.loads(content.decode())))
    if not isinstance(document, dict):
        document = {"x": document}
    if document and draw(st.integers(0, 5)) == 5:
        document[draw(st.sampled_from(list(document)))] = draw(_MOMENTS)
    inline = draw(st.integers(0, 4)) == 4
    lines, tables = [], []
    for key, value in document.items():
        table = isinstance(value, dict) and not inline
        (tables if table else lines).append((key, value))
    text = _toml_lines(dict(lines))
    for key, value in tables:
        text += f"\n[{_toml(key)}]\n{_toml_lines(value)}"
    return _encoded(draw, text, ("utf-8",) * 8 + ("utf-8-sig",))


def _toml_lines(values: dict[Any, Any]) -> str:
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in values.items())


def _key(key: Any) -> str:
    plain = str(key).isascii() and str(key).replace("_", "").replace("-", "").isalnum()
    return str(key) if plain else _toml(str(key))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{_toml(str(key))} = {_toml(each)}" for key, each in value.items())
            + "}"
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    text = "" if value is None else str(value)
    text = text.encode("utf-8", "replace").decode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def yaml_file(draw: Draw, content: bytes) -> bytes:
    """Return a YAML text like another one."""
    document = draw(like(yaml.safe_load(content)))
    if isinstance(document, dict) and document and draw(st.integers(0, 4)) == 4:
        odd = st.one_of(
            _MOMENTS.filter(lambda each: not isinstance(each, datetime.time)),
            st.binary(),
            st.just({1, "a"}),
        )
        document[draw(st.sampled_from(list(document)))] = draw(odd)
    style = draw(st.sampled_from((None, None, '"', "'", "|", ">")))
    flow, wide = draw(st.sampled_from((None, True, False))), draw(st.booleans())
    document = _with_whole_texts(document)
    text = yaml.safe_dump(
        document, default_style=style, default_flow_style=flow, allow_unicode=wide
    )
    return _encoded(draw, text, ("utf-8",) * 4 + ("utf-8-sig", "utf-16"))


def _with_whole_texts(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_with_whole_texts(each) for each in value]
    if isinstance(value, dict):
        return {_with_whole_texts(key): _with_whole_texts(each) for key, each in value.items()}
    return value


def table_file(draw: Draw, content: bytes) -> bytes:
    """Return a table like another one, with other separators, quotes and ends of lines."""
    text = content.decode()
    separator = max(",;\t", key=text.splitlines()[0].count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if row]
    if draw(st.booleans()):
        _change_column(draw, rows)
    if draw(st.booleans()):
        rows = draw(like(rows))
    if draw(st.booleans()):
        separator = draw(st.sampled_from((",", ";", "\t", "|", " ")))
    file = io.StringIO()
    quoting = csv.QUOTE_ALL if draw(st.integers(0, 4)) == 4 else csv.QUOTE_MINIMAL
    end = draw(st.sampled_from(("\n", "\n", "\r\n", "\r", "\n\n")))
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
    for row in rows if isinstance(rows, list) else [rows]:
        writer.writerow(row if isinstance(row, list | dict) else [row])
    return _encoded(draw, file.getvalue(), _ENCODINGS)


def _change_column(draw: Draw, rows: list[list[str]]) -> None:
    at = draw(st.integers(0, min(map(len, rows)) - 1))
    action = draw(st.sampled_from(("value", "values", "name", "repeat", "remove")))
    start = draw(st.integers(0, 1))
    if action == "name":
        rows[0][at] = str(draw(TEXTS | st.sampled_from(rows[0])))
        return
    value = draw(_LEAVES)
    for row in rows[start:]:
        if action == "repeat":
            row.insert(at, row[at])
        elif action == "remove":
            del row[at]
        else:
            row[at] = str(draw(_LEAVES) if action == "values" else value)


def words_file(draw: Draw, content: bytes) -> bytes:
    """Return lines of words and numbers like others."""
    rows = [line.split() for line in content.decode().splitlines()]
    if draw(st.integers(0, 2)):
        rows = draw(like(rows)) if rows else [[draw(TEXTS)]]
    else:
        rows = _matrix(draw, len(rows))
    end = draw(st.sampled_from(("\n", "\n", "\r\n", "\r")))
    separator = draw(st.sampled_from((" ", " ", "  ", "\t", ", ")))
    rows = [
        row if isinstance(row, list) else [row]
        for row in (rows if isinstance(rows, list) else [rows])
    ]
    return _encoded(draw, end.join(separator.join(map(str, row)) for row in rows), _ENCODINGS)


def _matrix(draw: Draw, rows: int) -> list[list[Any]]:
    """Return rows of numbers, which are often as many as in a file, and often in a square."""
    numbers = st.sampled_from(
        (
            *(st.integers(-1000, 1000), st.floats(0, 1).map(lambda each: round(each, 4))),
            *(st.fractions(-1, 1, max_denominator=10_000), NUMBERS),
        )
    )
    numbers = draw(numbers)
    height = draw(st.sampled_from((rows, rows, 1, 2, 3, 5, 7)))
    width = draw(st.sampled_from((height, height, 1, 4, 5, 6, 9)))
    return [[draw(numbers) for _ in range(width)] for _ in range(height)]


_XML_TEXTS = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), max_size=8
)
_XML_NAMES = st.sampled_from(
    ("object", "bndbox", "name", "xmin", "size", "part", "a", "é", "{http://x}name", "annotation")
)


def xml_file(draw: Draw, content: bytes) -> bytes:
    """Return an XML text like another one."""
    root = ElementTree.fromstring(content)
    for _ in range(draw(st.integers(1, 3))):
        parents = [each for each in root.iter() if len(each)]
        if not parents:
            break
        parent = parents[draw(st.integers(0, len(parents) - 1))]
        at = draw(st.integers(0, len(parent) - 1))
        child = parent[at]
        action = draw(st.integers(0, 8))
        if action < 3:
            numbers = NUMBERS.filter(lambda each: abs(each) < 1e300 or isinstance(each, float))
            child.text = draw(_XML_TEXTS | numbers.map(str))
        elif action == 3:
            parent.remove(child)
        elif action == 4:
            parent.insert(at, copy.deepcopy(child))
        elif action == 5:
            child.tag = draw(_XML_NAMES)
        elif action == 6:
            child.set(draw(_XML_NAMES), draw(_XML_TEXTS))
        elif action == 7:
            parent.insert(
                at,
                draw(
                    st.sampled_from(
                        (ElementTree.Comment("x"), ElementTree.ProcessingInstruction("x", "y"))
                    )
                ),
            )
        else:
            child.append(copy.deepcopy(draw(st.sampled_from((root, parent, child)))))
    encoding = draw(st.sampled_from(("utf-8", "utf-8", "utf-16", "latin-1", "us-ascii")))
    made = ElementTree.tostring(root, encoding, xml_declaration=draw(st.booleans()) or None)
    return made


def _encoded(draw: Draw, text: str, encodings: tuple[str, ...]) -> bytes:
    return text.encode(draw(st.sampled_from(encodings)), "replace")
