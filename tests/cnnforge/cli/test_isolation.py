"""Plugins that are wrong in every way there is: the program goes on, and says it once."""

import json

import pytest

from cnnforge.cli import main

HEADER = "from cnnforge.plugin import LayerSpec, ModelSpec, hookimpl\n"
LAYER = """
@hookimpl
def cnnforge_layers():
    return [LayerSpec(name="twice", target="{module}:Layer", summary="")]
"""
NEWER = "CNNFORGE_PLUGIN_API = 99\n"
TEXT = "CNNFORGE_PLUGIN_API = '1'\n"
EXITS = "raise SystemExit(7)\n"
YIELDS = """
@hookimpl
def cnnforge_models():
    yield ModelSpec(name="half", target="a:b", summary="")
    raise RuntimeError("after the first")
"""
SIGNATURE = """
@hookimpl
def cnnforge_callbacks(run, epoch):
    return []
"""
# Name, source, status, and a part of the cause.
PLUGINS = [
    ("a_exits", EXITS, "failed", "SystemExit: 7"),
    ("b_first", LAYER.format(module="acme_b_first"), "loaded", ""),
    ("c_newer", NEWER, "incompatible", "it was written for plugin API 99, this cnnforge has 1"),
    ("d_yields", YIELDS, "failed", "RuntimeError: after the first ("),
    ("e_second", LAYER.format(module="acme_e_second"), "loaded", ""),
    ("f_signature", SIGNATURE, "failed", "'run'"),
    ("g_text", TEXT, "incompatible", "CNNFORGE_PLUGIN_API is '1': expected a whole number"),
]


@pytest.fixture
def plugins(install_plugin):
    for name, source, _, _ in PLUGINS:
        install_plugin(name, HEADER + source)
    return [name for name, *_ in PLUGINS]


def test_plugins_lists_all_with_status_and_cause(plugins, capsys):
    assert main(["plugins", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = {row["name"]: row for row in json.loads(out)["plugins"]}
    for name, _, status, cause in PLUGINS:
        assert rows[name]["status"] == status
        assert cause in (rows[name]["cause"] or "")
        assert "\n" not in (rows[name]["cause"] or "")
    specs = {row["name"] for row in json.loads(out)["specs"]}
    assert {"b_first/twice", "e_second/twice", "builtin/conv2d"} <= specs
    assert "d_yields/half" not in specs
    assert main(["plugins"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in plugins)


def test_a_command_goes_on_and_says_each_once(plugins, capsys, tmp_path):
    data = ["--data", "mnist5k", "--output", str(tmp_path)]
    assert main(["train", "no_such_model", *data]) == 2
    lines = capsys.readouterr().err.splitlines()
    broken = [name for name, _, status, _ in PLUGINS if status != "loaded"]
    for name in broken:
        (line,) = [it for it in lines if it.startswith("warning: ") and f"'{name}'" in it]
        assert "is not loaded: " in line
    assert len(lines) == len(broken) + 1
    assert lines[-1].startswith("error: there is no model named 'no_such_model'")


def test_a_name_that_two_declare_is_an_error_at_use(plugins, capsys):
    assert main(["plugins", "check", "twice"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "error: the layer 'twice' is declared by several plugins: write b_first/twice or "
        "e_second/twice"
    )
