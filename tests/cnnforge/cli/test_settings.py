"""Settings of the user, of Keras and of the machine."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
import types

import pytest

from cnnforge.cli import _import_keras, _settings, main
from cnnforge.cli._import_keras import import_keras
from cnnforge.errors import UsageError

TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def keras_json(tmp_path, monkeypatch):
    """Return a function that writes `keras.json` and returns the settings that follow."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)

    def write(content):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / "keras.json").write_bytes(text)
        return _settings.keras_settings()

    return write


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"epsilon": 1e-6, "backend": "tensorflow", "floatx": "float32"},
        {"image_data_format": "channels_last", "something": "else"},
    ],
)
def test_a_usual_file_needs_no_note(content, keras_json):
    assert keras_json(content) == _settings.KerasSettings("tensorflow")


def test_a_missing_file_needs_no_note(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "missing"))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert _settings.keras_settings() == _settings.KerasSettings("tensorflow")


@pytest.mark.parametrize(
    ("name", "value", "used"),
    [
        ("image_data_format", "channels_first", "channels_last"),
        ("floatx", "float16", "float32"),
        ("floatx", "float64", "float32"),
        ("backend", "jax", "tensorflow"),
        ("backend", "theano", "tensorflow"),
        ("backend", 3, "tensorflow"),
    ],
)
def test_a_setting_that_is_changed_is_named(name, value, used, keras_json, tmp_path):
    found = keras_json({name: value})
    (note,) = found.notes
    assert note.startswith(f"{tmp_path / 'keras.json'} sets {name} to '{value}'")
    assert note.endswith(f"cnnforge uses {used}")
    assert (found.backend, found.ignored, found.error) == ("tensorflow", False, "")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"{broken", "Expecting property name"),
        (b"", "Expecting value"),
        (b"\xff\xfe", "can't decode"),
        ([], "it has a list, no names"),
        ({"floatx": "int8"}, "floatx is 'int8', expected float16 or float32 or float64"),
        ({"floatx": ["float32"]}, "floatx is ['float32']"),
        ({"image_data_format": "NHWC"}, "image_data_format is 'NHWC'"),
        ({"epsilon": 1}, "epsilon is 1, expected a number such as 1e-07"),
    ],
)
def test_a_file_that_keras_rejects_is_ignored(content, cause, keras_json):
    found = keras_json(content)
    (note,) = found.notes
    assert "keras.json cannot be used: " in note
    assert cause in note
    assert found.ignored


def test_a_folder_in_place_of_the_file_is_ignored(keras_json, tmp_path):
    (tmp_path / "keras.json").mkdir()
    found = _settings.keras_settings()
    assert found.ignored
    assert "Is a directory" in found.notes[0]


@pytest.mark.parametrize("backend", ["nonsense", "jax", "TensorFlow", "numpy"])
def test_an_unknown_backend_is_an_error(backend, keras_json, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    found = keras_json({})
    assert found.error == (
        f"KERAS_BACKEND is {backend!r}, but cnnforge runs on tensorflow and torch: set it to one "
        "of them, or unset KERAS_BACKEND"
    )
    assert found.backend == "tensorflow"


@pytest.mark.skipif(TORCH, reason="torch is installed")
def test_a_backend_that_is_not_installed(keras_json, monkeypatch):
    assert "torch is not installed" in keras_json({"backend": "torch"}).notes[0]
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert "type pip install 'cnnforge[torch]', or unset KERAS_BACKEND" in keras_json({}).error


def test_the_environment_is_stronger_than_the_file(keras_json, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert keras_json({"backend": "jax"}).notes == ()
    monkeypatch.setenv("KERAS_BACKEND", "")
    assert len(keras_json({"backend": "jax"}).notes) == 1


@pytest.fixture
def without_keras(monkeypatch):
    """Pretend that Keras was not imported yet, and record what an import would see."""
    import keras

    seen = {}

    def imported(backend):
        sys.modules["keras"] = keras
        # As Keras does with the file of the test below.
        keras.config.set_image_data_format("channels_first")
        seen.update(backend=backend, home=os.environ.get("KERAS_HOME"))

    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr("cnnforge.cli._import_keras._import", imported)
    return seen


def test_import_keras_prints_notes_and_corrects_values(without_keras, keras_json, capsys):
    keras_json({"image_data_format": "channels_first"})
    import_keras()
    assert sys.modules["keras"].config.image_data_format() == "channels_last"
    assert without_keras["backend"] == "tensorflow"
    err = capsys.readouterr().err
    assert err.startswith("note: ")
    assert "channels_first" in err


def test_import_keras_hides_a_file_that_keras_rejects(without_keras, keras_json, tmp_path):
    keras_json([])
    import_keras()
    assert without_keras["home"] != str(tmp_path)


def test_import_keras_refuses_an_unknown_backend(without_keras, keras_json, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    with pytest.raises(UsageError, match="KERAS_BACKEND is 'nonsense'"):
        import_keras()
    assert without_keras == {}


def test_doctor_survives_an_unknown_backend(monkeypatch, capsys):
    import keras  # noqa: F401

    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    monkeypatch.setattr("cnnforge.cli.doctor.machine._checks", lambda specs: [])
    assert main(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert any(line.startswith("settings") and "nonsense" in line for line in out.splitlines())
    assert err.splitlines()[-1].startswith("error: no other command can start: KERAS_BACKEND is")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUMBA_NUM_THREADS", "0"),
        ("NUMBA_NUM_THREADS", "all"),
        ("KERAS_MAX_EPOCHS", ""),
        ("KERAS_MAX_STEPS_PER_EPOCH", "1.5"),
    ],
)
def test_a_variable_that_is_not_a_number_is_ignored(name, value, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    assert main(["plugins"]) == 0
    assert capsys.readouterr().err.startswith(f"note: {name} is {value!r}, expected a number")
    assert name not in os.environ


@pytest.mark.skipif(os.name != "posix", reason="a umask as on POSIX")
@pytest.mark.parametrize(("mask", "used"), [(0o777, 0o077), (0o222, 0o022), (0o077, 0o077), (0, 0)])
def test_the_owner_can_use_new_files(mask, used, capsys):
    before = os.umask(mask)
    try:
        assert main(["plugins"]) == 0
    finally:
        found = os.umask(before)
    assert found == used
    err = capsys.readouterr().err
    assert err.startswith(f"note: the umask is {mask:04o}") == (mask != used)


def test_a_user_without_a_home(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "~")  # It is what `expanduser` returns for such a user.
    assert main(["plugins"]) == 0
    assert capsys.readouterr().err.startswith("note: this user has no home folder")
    assert os.path.isdir(os.environ["HOME"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("platform", "name"), [("win32", "Windows"), ("darwin", "macOS"), ("freebsd14", "freebsd14")]
)
def test_another_system_is_named_at_the_start(platform, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", platform)
    _settings.show_platform()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"this is {name}" in err
    assert "--kernels keras" in err


def test_the_line_on_the_system_is_not_part_of_the_help(monkeypatch, capsys):
    monkeypatch.setattr(_settings, "show_platform", lambda: print("seen", file=sys.stderr))
    for arguments in ([], ["--help"], ["train", "-h"], ["--version"]):
        assert main(arguments) == 0
        assert capsys.readouterr().err == ""
    assert main(["plugins"]) == 0
    assert capsys.readouterr().err == "seen\n"


# What Windows and macOS do not have. The other packages are imported before.
ELSEWHERE = """
import importlib, os, pkgutil, signal, sys
import keras, matplotlib.figure, numba, tensorflow
import rich.console, rich.progress, rich.table, typer, uvicorn
platform = sys.argv[1]
sys.modules["fcntl"] = sys.modules["resource"] = None
del os.sched_getaffinity
if platform == "win32":
    for name in ("SIGHUP", "SIGPIPE", "SIGUSR1"):
        delattr(signal, name)
    del os.getuid, os.geteuid
sys.platform = platform
from cnnforge.cli import main
assert main(["plugins"]) == 0
for package in ("cnnforge", "cnnforge_plugins"):
    folder = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(folder, package + "."):
        if ".torch" not in module.name and ".scaffold." not in module.name:
            importlib.import_module(module.name)
from cnnforge.training import StopOnSignal
from cnnforge.utils.processors import usable_processors
assert usable_processors() >= 1
with StopOnSignal() as stop:
    assert not stop()
"""


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_all_modules_can_be_imported_elsewhere(platform):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, platform],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "note: cnnforge is tested on Linux only" in done.stderr


def test_a_package_is_hidden_during_the_import_only(tmp_path, monkeypatch):
    (tmp_path / "optional_package.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with _import_keras._without("optional_package"), pytest.raises(ModuleNotFoundError):
        importlib.import_module("optional_package")
    importlib.import_module("optional_package")
    monkeypatch.delitem(sys.modules, "optional_package")


def test_a_package_that_is_imported_already_stays(monkeypatch):
    module = types.ModuleType("optional_package")
    monkeypatch.setitem(sys.modules, "optional_package", module)
    with _import_keras._without("optional_package"):
        assert importlib.import_module("optional_package") is module
    assert sys.modules["optional_package"] is module


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_during_the_import(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with _import_keras._without_collections():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        assert gc.get_freeze_count()
    finally:
        (gc.enable if before else gc.disable)()
        gc.unfreeze()
