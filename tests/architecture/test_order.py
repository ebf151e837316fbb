"""The processes of the suite begin with the files that take long."""

import runpy
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
SORT = runpy.run_path(str(ROOT / "tests" / "conftest.py"))["pytest_collection_modifyitems"]


def item(path: str, slow: bool = False) -> SimpleNamespace:
    return SimpleNamespace(path=path, get_closest_marker=lambda name: slow and name == "slow")


def ordered(config: SimpleNamespace) -> str:
    items = [item("a"), *[item("b")] * 3, item("c", slow=True), *[item("d")] * 50, item("e")]
    SORT(config, items)
    return "".join(dict.fromkeys(each.path for each in items))


def test_a_file_with_a_slow_test_counts_as_many_tests():
    assert ordered(SimpleNamespace(workerinput={})) == "dcbae"


def test_one_process_keeps_the_order():
    assert ordered(SimpleNamespace()) == "abcde"


def test_xdist_keeps_the_order():
    assert "--dist loadfile --no-loadscope-reorder" in (ROOT / "Makefile").read_text()
