"""The processes of the suite begin with the files that take long."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SORT = runpy.run_path(str(ROOT / "tests" / "conftest.py"))["pytest_collection_modifyitems"]


def item(path: str, *marks: pytest.Mark) -> SimpleNamespace:
    return SimpleNamespace(path=Path(path), get_closest_marker=lambda _: next(iter(marks), None))


def ordered(config: SimpleNamespace) -> str:
    slow, very = pytest.mark.slow.mark, pytest.mark.slow(300).mark
    items = [item("a"), *[item("b")] * 3, item("c", slow), *[item("d")] * 50, item("e", very)]
    items.append(item("test_fuzzing_f"))
    SORT(config, items)
    return "".join(dict.fromkeys(each.path.name[-1] for each in items))


def test_a_file_with_a_slow_test_counts_as_many_tests():
    assert ordered(SimpleNamespace(workerinput={})) == "edcfba"


def test_one_process_keeps_the_order():
    assert ordered(SimpleNamespace()) == "abcdef"


def test_xdist_keeps_the_order():
    assert "--dist loadfile --no-loadscope-reorder" in (ROOT / "Makefile").read_text()
