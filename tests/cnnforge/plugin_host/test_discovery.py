"""Loading plugins: what one of them does wrong concerns no other."""

import re
import sys
from pathlib import Path

import pytest

import cnnforge
from cnnforge.errors import AmbiguousNameError, PluginError, UnknownNameError, UsageError
from cnnforge.plugin import PLUGIN_API, LayerSpec, ModelSpec, hookimpl
from cnnforge.plugin_host.discovery import Plugins, discover

GOOD = """
    @hookimpl
    def cnnforge_layers():
        return [LayerSpec(name="conv2d", target="acme_good:Layer", summary="another one")]

    @hookimpl
    def cnnforge_models():
        yield ModelSpec(name="tiny", target="acme_good:build", summary="one layer")

    class Layer: ...
"""

BAD = {
    "import_error": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such"),
    "syntax_error": ("def (", "SyntaxError"),
    "system_exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "unknown_hook": (
        """
        @hookimpl
        def cnnforge_layer():
            return []
        """,
        "unknown hook 'cnnforge_layer'",
    ),
    "wrong_argument": (
        """
        @hookimpl
        def cnnforge_layers(registry):
            return []
        """,
        "registry",
    ),
    "no_hook": ("def cnnforge_layers():\n    return []", "implements no hook"),
    "hook_raises": (
        """
        @hookimpl
        def cnnforge_layers():
            raise RuntimeError("boom")
        """,
        "RuntimeError: boom",
    ),
    "hook_exits": (
        """
        @hookimpl
        def cnnforge_layers():
            raise SystemExit("bye")
        """,
        "SystemExit: bye",
    ),
    "generator_raises": (
        """
        @hookimpl
        def cnnforge_layers():
            yield LayerSpec(name="half", target="a:b", summary="")
            raise RuntimeError("half way")
        """,
        "RuntimeError: half way",
    ),
    "second_hook_raises": (
        """
        @hookimpl
        def cnnforge_layers():
            return [LayerSpec(name="first", target="a:b", summary="")]

        @hookimpl
        def cnnforge_models():
            return [ModelSpec(name="second", target="a:b", summary="")] * 2
        """,
        "declares the model 'second' twice",
    ),
    "bad_name": (
        """
        @hookimpl
        def cnnforge_layers():
            return [LayerSpec(name="Conv 2D", target="a:b", summary="")]
        """,
        "cannot be named 'Conv 2D'",
    ),
    "wrong_kind": (
        """
        @hookimpl
        def cnnforge_layers():
            return [ModelSpec(name="x", target="a:b", summary="")]
        """,
        "declares a layer that is a ModelSpec: return LayerSpec objects",
    ),
    "no_list": (
        """
        @hookimpl
        def cnnforge_layers():
            return LayerSpec(name="x", target="a:b", summary="")
        """,
        "return a list of specs",
    ),
}


def records(plugins):
    return {record.name: record for record in plugins.records}


class Interrupting:
    @hookimpl
    def cnnforge_layers(self):
        return [LayerSpec(name="x", target="a:b", summary="")]

    @hookimpl
    def cnnforge_models(self):
        raise KeyboardInterrupt


class Declaring:
    """A plugin that is an object."""

    @hookimpl
    def cnnforge_models(self):
        return [ModelSpec(name="tiny", target="a:b", summary="")]


@pytest.mark.parametrize("kind", BAD)
def test_bad_plugin_is_recorded_and_the_others_load(install_plugin, kind):
    source, cause = BAD[kind]
    # One that sorts before and one that sorts after it.
    install_plugin(f"a_{kind}", source)
    install_plugin("good", GOOD)
    found = discover()
    record = records(found)[f"a_{kind}"]
    assert record.status == "failed"
    assert cause in record.cause
    assert "\n" not in record.cause
    assert not found.manager.has_plugin(record.name)
    assert records(found)["good"].status == records(found)["builtin"].status == "loaded"
    assert "good/tiny" in found.models
    for registry in found.registries.values():
        assert not [name for name in registry if name.startswith("a_")]


def test_cause_says_where_in_the_plugin(install_plugin):
    install_plugin("bad", "\n\n1 / 0")
    assert records(discover())["bad"].cause.endswith("acme_bad.py:4)")


def test_hook_that_returns_none_declares_nothing(install_plugin):
    install_plugin("none", "@hookimpl\ndef cnnforge_layers(): return None")
    assert records(discover())["none"].status == "loaded"


def test_builtin_is_an_entry_point_like_any_other():
    record = records(discover())["builtin"]
    assert record.source == "cnnforge_plugins.manifest"
    assert record.distribution == "cnnforge"
    assert record.version


def test_records_name_the_distribution(install_plugin):
    install_plugin("good", GOOD)
    record = records(discover())["good"]
    assert (record.distribution, record.version) == ("acme-good", "1.0")
    assert record.cause == ""


def test_entry_points_are_sorted_by_name(install_plugin):
    hook = "@hookimpl\ndef cnnforge_layers(): return []"
    for name in ("zeta", "alpha", "mid"):
        install_plugin(name, hook)
    names = [record.name for record in discover().records]
    assert names == sorted(names)
    assert {"zeta", "alpha", "mid", "builtin"} <= set(names)


def test_second_plugin_of_a_name_is_refused(install_plugin):
    install_plugin("good", GOOD)
    install_plugin("good", GOOD, distribution="acme-other")
    found = discover()
    both = [record for record in found.records if record.name == "good"]
    assert [record.status for record in both] == ["loaded", "failed"]
    assert "another plugin named 'good'" in both[1].cause
    assert "good/tiny" in found.models


@pytest.mark.parametrize(
    ("declared", "cause"),
    [
        (PLUGIN_API + 1, f"plugin API {PLUGIN_API + 1}, this cnnforge has {PLUGIN_API}"),
        (str(PLUGIN_API), f"CNNFORGE_PLUGIN_API is '{PLUGIN_API}': expected a whole number"),
        (True, "CNNFORGE_PLUGIN_API is True: expected a whole number"),
    ],
)
def test_other_plugin_api_is_incompatible(install_plugin, declared, cause):
    install_plugin("future", f"CNNFORGE_PLUGIN_API = {declared!r}\n")
    record = records(discover())["future"]
    assert record.status == "incompatible"
    assert cause in record.cause


def test_own_plugin_api_is_compatible(install_plugin):
    install_plugin(
        "now", f"CNNFORGE_PLUGIN_API = {PLUGIN_API}\n@hookimpl\ndef cnnforge_layers(): return []"
    )
    assert records(discover())["now"].status == "loaded"


def test_ctrl_c_while_importing_goes_through(install_plugin):
    install_plugin("stop", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_ctrl_c_in_a_hook_leaves_nothing():
    plugins = Plugins()
    with pytest.raises(KeyboardInterrupt):
        plugins.register(Interrupting(), "stop")
    assert not plugins.manager.has_plugin("stop")
    assert len(plugins.layers) == 0


def test_object_is_a_plugin():
    plugins = Plugins()
    plugins.register(Declaring(), "mine")
    assert plugins.models["tiny"].qualified_name == "mine/tiny"


def test_autoload_off(monkeypatch, install_plugin):
    install_plugin("good", GOOD)
    monkeypatch.setenv("CNNFORGE_PLUGIN_AUTOLOAD", "0")
    found = discover()
    assert found.records == []
    assert "acme_good" not in sys.modules


def test_autoload_takes_no_other_word(monkeypatch):
    monkeypatch.setenv("CNNFORGE_PLUGIN_AUTOLOAD", "false")
    with pytest.raises(UsageError, match="must be 0 or 1, got 'false'"):
        discover()


def test_disabled_plugins_are_not_imported(monkeypatch, install_plugin):
    install_plugin("good", GOOD)
    monkeypatch.setenv("CNNFORGE_DISABLED_PLUGINS", "other, good")
    found = discover()
    assert records(found)["good"].status == "disabled"
    assert records(found)["builtin"].status == "loaded"
    assert "acme_good" not in sys.modules
    with pytest.raises(UnknownNameError, match=r"plugin 'good' is disabled.*DISABLED_PLUGINS"):
        found.models["tiny"]


def test_conflict_is_an_error_at_use_only(install_plugin):
    install_plugin("good", GOOD)
    found = discover()
    with pytest.raises(AmbiguousNameError, match="builtin/conv2d or good/conv2d"):
        found.layers["conv2d"]
    assert found.layers["good/conv2d"].summary == "another one"
    assert found.layers["good/conv2d"].load() is sys.modules["acme_good"].Layer
    assert found.layers["max_pooling2d"].qualified_name == "builtin/max_pooling2d"


def test_unknown_name_tells_of_the_failed_plugin(install_plugin):
    install_plugin("broken", "1 / 0")
    with pytest.raises(UnknownNameError, match="plugin 'broken' failed to load: ZeroDivision"):
        discover().models["huge"]


def test_unknown_name_without_failures_suggests():
    with pytest.raises(UnknownNameError, match=r"named 'lnet'; did you mean 'lenet'\?$"):
        discover().models["lnet"]


def test_explicit_file(write_plugin):
    path = write_plugin("acme_file", GOOD.replace("acme_good", "acme_file"))
    found = discover([path])
    assert found.layers["acme_file/conv2d"].load().__name__ == "Layer"
    record = records(found)["acme_file"]
    assert (record.source, record.version, record.status) == (path, None, "loaded")


def test_a_file_can_name_other_files_of_its_folder(write_plugin):
    write_plugin("acme_second", "class Layer: ...")
    path = write_plugin("acme_first", GOOD.replace("acme_good", "acme_second"))
    assert discover([path]).layers["acme_first/conv2d"].load().__module__ == "acme_second"
    # It is the last folder, so a file there hides no other module.
    assert sys.path[-1] == str(Path(path).parent)


def test_explicit_file_given_twice_is_one_plugin(write_plugin):
    path = write_plugin("acme_file", GOOD)
    assert [record.name for record in discover([path, path]).records].count("acme_file") == 1


def test_explicit_module_of_an_installed_plugin_keeps_its_name(monkeypatch, install_plugin):
    install_plugin("good", GOOD)
    monkeypatch.setenv("CNNFORGE_DISABLED_PLUGINS", "good")
    found = discover(["acme_good"])
    assert [record.status for record in found.records if record.name == "good"] == ["loaded"]
    assert "good/tiny" in found.models
    assert records(found)["good"].version == "1.0"


def test_explicit_module_that_is_loaded_already_is_no_error(install_plugin):
    install_plugin("good", GOOD)
    assert [record.name for record in discover(["acme_good"]).records].count("good") == 1


@pytest.mark.parametrize("kind", BAD)
def test_explicit_plugin_that_fails_is_fatal(write_plugin, kind):
    source, cause = BAD[kind]
    with pytest.raises(PluginError) as caught:
        discover([write_plugin("acme_bad", source)])
    assert cause in str(caught.value)
    assert "acme_bad.py" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_explicit_file_that_failed_can_be_mended(write_plugin):
    with pytest.raises(PluginError, match="boom"):
        discover([write_plugin("acme_file", "raise RuntimeError('boom')")])
    assert "acme_file/tiny" in discover([write_plugin("acme_file", GOOD)]).models


def test_explicit_incompatible_plugin_is_fatal(write_plugin):
    with pytest.raises(PluginError, match="plugin API 7, this cnnforge has 1"):
        discover([write_plugin("acme_future", "CNNFORGE_PLUGIN_API = 7")])


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("no/such/file.py", "there is no file"),
        ("no_such_module", "No module named 'no_such_module'"),
        ("cnnforge.errors", "implements no hook"),
        ("", "expected a file that ends in"),
        ("../plugin.txt", r"expected a file that ends in \.py, or the name of a module"),
    ],
)
def test_explicit_plugin_that_is_none(reference, reason):
    with pytest.raises(PluginError, match=reason):
        discover([reference])


@pytest.mark.parametrize("name", ["json", "sys", "colorsys", "numpy"])
def test_explicit_file_must_not_hide_a_module(write_plugin, name):
    before = sys.modules.get(name)
    with pytest.raises(PluginError, match=f"would hide the Python module '{name}': rename"):
        discover([write_plugin(name, GOOD)])
    assert sys.modules.get(name) is before


def test_explicit_file_needs_an_importable_name(write_plugin):
    with pytest.raises(PluginError, match=r"Python cannot import a file named my-plugin\.py"):
        discover([write_plugin("my-plugin", GOOD)])


def test_t24_the_working_directory_is_not_searched(tmp_path, monkeypatch, write_plugin):
    write_plugin("acme_here", "raise AssertionError('imported')")
    monkeypatch.chdir(tmp_path)
    assert "acme_here" not in records(discover())


def test_t24_no_process_of_cnnforge_looks_for_modules_in_the_working_directory():
    """A folder of data may have a file numpy.py. So each process gets -P, or -I."""
    root = Path(cnnforge.__file__).parent
    starts = []
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for line in re.split(r"sys\.executable,", text)[1:]:
            # Two modules get the arguments from others, which the next loop checks.
            if not re.match(r"\s*\*(command|arguments)\b", line):
                starts.append((path.name, re.search(r'"-(.)"', line)[1]))
        for before in re.findall(r'(.{0,6})"-m", "cnnforge', text):
            starts.append((path.name, "P" if before.endswith('"-P", ') else before))
    assert len(starts) > 8
    # The benchmarks run the tests of the folder in which the user starts them.
    wrong = [name for name, option in starts if option not in "PI" and name != "pytest_session.py"]
    assert not wrong
