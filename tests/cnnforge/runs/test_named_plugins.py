"""Plugins that a run names are imported only if the user has named them, too."""

import os
from pathlib import Path

import pytest

from cnnforge.errors import UsageError
from cnnforge.model_files.trust import trusting_models
from cnnforge.runs import named_plugins
from cnnforge.runs.named_plugins import plugins_of_run, remember

RUN = Path("runs/net-toy-001")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, which does not exist yet."""
    monkeypatch.setattr(named_plugins, "cache_folder", lambda: tmp_path / "home" / "cache")
    return tmp_path / "home" / "cache"


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text("")
    return str(path)


def test_t24_an_unknown_plugin_is_refused(plugin: str) -> None:
    with pytest.raises(UsageError) as caught:
        plugins_of_run(RUN, [plugin])
    assert str(caught.value) == (
        f"the run {RUN} names the plugin {plugin}, and you have not named it on this machine "
        f"before: a plugin can run any code, so look at it, then add --plugin {plugin} (in Python: "
        f"plugins=['{plugin}'])"
    )
    with pytest.raises(UsageError, match=r"plugins .*mine.py, other\.module, .* --plugin other"):
        plugins_of_run(RUN, [plugin, "other.module"])


@pytest.mark.parametrize("name", ["mine.py", "./mine.py", "folder/../mine.py", "link.py"])
def test_t24_a_file_has_many_names(
    name: str, plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.py").symlink_to(plugin)
    with pytest.raises(UsageError):
        plugins_of_run(RUN, [name])
    assert plugins_of_run(RUN, [name], [plugin]) == (name, plugin)
    assert plugins_of_run(RUN, [name]) == (name,)
    # The same name in another folder is another file.
    (tmp_path / "folder" / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path / "folder")
    with pytest.raises(UsageError):
        plugins_of_run(RUN, ["mine.py"])


def test_t24_a_module(plugin: str) -> None:
    remember([plugin])
    with pytest.raises(UsageError, match="--plugin mine "):
        plugins_of_run(RUN, ["mine"])
    assert plugins_of_run(RUN, ["mine"], ["mine"]) == ("mine",)
    assert plugins_of_run(RUN, ["mine"]) == ("mine",)
    with pytest.raises(UsageError):
        plugins_of_run(RUN, ["mine.other"])


def test_t24_an_installed_plugin_needs_no_name(cache: Path) -> None:
    assert plugins_of_run(RUN, ["cnnforge_plugins.manifest"]) == ("cnnforge_plugins.manifest",)
    with pytest.raises(UsageError):
        plugins_of_run(RUN, ["cnnforge_plugins.other"])
    assert not cache.exists()


def test_t24_trust_is_not_remembered(plugin: str, cache: Path) -> None:
    with trusting_models():
        assert plugins_of_run(RUN, [plugin], ["other"]) == (plugin, "other")
    assert not cache.exists()
    with pytest.raises(UsageError):
        plugins_of_run(RUN, [plugin])


def test_a_file_that_does_not_exist_is_not_remembered(tmp_path: Path) -> None:
    name = str(tmp_path / "later.py")
    assert plugins_of_run(RUN, [name], [name, "a\0.py"]) == (name, "a\0.py")
    (tmp_path / "later.py").write_text("")
    with pytest.raises(UsageError):
        plugins_of_run(RUN, [name])


@pytest.mark.parametrize("content", [b"", b"[]", b"/other.py", b"\xff\x00"])
def test_a_damaged_memory_is_no_memory(content: bytes, plugin: str, cache: Path) -> None:
    remember([plugin])
    (record,) = (cache / "named-plugins").iterdir()
    assert record.read_text() == plugin
    record.write_bytes(content)
    with pytest.raises(UsageError):
        plugins_of_run(RUN, [plugin])
    remember([plugin])
    assert plugins_of_run(RUN, [plugin]) == (plugin,)
    record.unlink()
    record.mkdir()
    with pytest.raises(UsageError):
        plugins_of_run(RUN, [plugin])
    remember([plugin])


def test_without_a_cache_nothing_is_remembered(plugin: str, cache: Path) -> None:
    cache.parent.write_text("a file in the place of the home")
    assert plugins_of_run(RUN, [plugin], [plugin]) == (plugin,)
    with pytest.raises(UsageError):
        plugins_of_run(RUN, [plugin])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_home_that_is_read_only(plugin: str, cache: Path) -> None:
    cache.parent.mkdir()
    cache.parent.chmod(0o500)
    assert plugins_of_run(RUN, [plugin], [plugin]) == (plugin,)
    cache.parent.chmod(0o700)
    assert not cache.exists()


def test_an_odd_name_is_shown_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines $x.py"
    path.write_text("")
    with pytest.raises(UsageError) as caught:
        plugins_of_run(RUN, [str(path)])
    assert "\n" not in str(caught.value)
    assert f"--plugin '{tmp_path}/two\\nlines $x.py'" in str(caught.value)
