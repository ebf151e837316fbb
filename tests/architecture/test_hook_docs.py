"""plugins/README.md and cnnforge/hookspecs.py say the same."""

import inspect
import re
import sys
from pathlib import Path

from cnnforge import hookspecs
from cnnforge.discovery import Plugins, discover

README = Path(__file__).parents[2] / "plugins" / "README.md"
ROW = re.compile(r"^\| `(cnnforge_\w+)` \| `([^`]*)` \|", re.MULTILINE)


def specified_hooks() -> dict[str, str]:
    return {
        name: str(inspect.signature(function)).replace("'", "")
        for name, function in inspect.getmembers(hookspecs, inspect.isfunction)
        if hasattr(function, "cnnforge_spec")
    }


def test_readme_lists_every_hook_with_its_signature():
    assert dict(ROW.findall(README.read_text())) == specified_hooks()


def test_every_hook_fills_a_registry():
    assert set(Plugins().registries) == set(specified_hooks())


def test_every_hook_is_documented():
    for name in specified_hooks():
        assert "Returns:" in (getattr(hookspecs, name).__doc__ or "")


def test_readme_example_is_a_plugin(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    example = re.search(r"```python\n# mine\.py\n(.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    path = tmp_path / "mine.py"
    path.write_text(example.group(1))
    found = discover([str(path)])
    assert callable(found.models["mine/linear"].load())
    del sys.modules["mine"]
