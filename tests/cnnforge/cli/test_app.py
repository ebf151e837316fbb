"""The program around the commands: help, version, errors and exit codes."""

import importlib.metadata
import subprocess
import sys

import pytest
import typer

from cnnforge.cli import app as app_module
from cnnforge.cli import main
from cnnforge.cli._common import load_plugins
from cnnforge.errors import (
    AmbiguousNameError,
    CnnforgeError,
    DataError,
    PluginError,
    RunError,
    UnknownNameError,
    UsageError,
)


@pytest.fixture
def command(monkeypatch):
    """Return a function that makes `cnnforge` a program with one more command, `act`."""

    def replace(act):
        app = typer.Typer(cls=app_module._Group, rich_markup_mode=None)
        app.command("act")(act)
        app.command("other")(lambda: None)
        monkeypatch.setattr(app_module, "app", app)

    return replace


def raiser(error):
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(arguments, capsys):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "plugins" in out
    assert err == ""


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cnnforge {importlib.metadata.version('cnnforge')}\n"


@pytest.mark.parametrize(
    ("error_type", "code"),
    [
        (CnnforgeError, 1),
        (RunError, 1),
        (DataError, 1),
        (UsageError, 2),
        (UnknownNameError, 2),
        (AmbiguousNameError, 2),
        (PluginError, 2),
    ],
)
def test_own_error_is_one_line_and_its_exit_code(command, capsys, error_type, code):
    command(raiser(error_type("got [1],\n expected [/2]")))
    assert main(["act"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: got [1], expected [/2]\n"


def test_long_error_is_still_one_line(command, capsys):
    command(raiser(CnnforgeError("word " * 100)))
    assert main(["act"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_other_error_is_a_bug_and_keeps_its_traceback(command):
    command(raiser(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["act"])


def test_ctrl_c(command, capsys):
    command(raiser(KeyboardInterrupt()))
    assert main(["act"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("code", [0, 1, 130, 143])
def test_command_chooses_its_exit_code(command, capsys, code):
    command(raiser(typer.Exit(code)))
    assert main(["act"]) == code
    assert capsys.readouterr() == ("", "")


def test_what_a_command_returns_is_no_failure(command):
    command(lambda: None)
    assert main(["act"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plugin"], "there is no command 'plugin'; type: cnnforge plugins"),
        (["qqq"], "No such command 'qqq'. Try 'cnnforge --help'."),
        (["plugins", "--jsn"], "--jsn. Did you mean '--json'? Try 'cnnforge plugins --help'."),
        (["--versoin"], "--versoin. Did you mean '--version'? Try 'cnnforge --help'."),
        (["plugins", "--qqq"], "No such option: --qqq. Try 'cnnforge plugins --help'."),
        (["plugins", "--plugin"], "requires an argument."),
        (["plugins", "extra"], "'extra'. Try 'cnnforge plugins --help'."),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def commands(group, *names):
    """Yield the words of each command that does something, and the command."""
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, *names, name)
        else:
            yield " ".join([*names, name]), each


def test_each_command_has_json():
    program = typer.main.get_command(app_module.app)
    found = dict(commands(program))
    assert {"train", "data convert", "plugins new"} <= found.keys()
    for words, each in found.items():
        assert "--json" in {text for option in each.params for text in option.opts}, words


def test_wrong_value_names_the_option(command, capsys):
    def act(epochs: int = 1) -> None:
        """Take a number."""

    command(act)
    assert main(["act", "--epochs", "many"]) == 2
    err = capsys.readouterr().err
    assert "--epochs" in err
    assert "many" in err
    assert err.count("\n") == 1


def test_installed_program_ends_with_the_exit_code():
    code = "import sys; from cnnforge.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "plugin"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_script_is_installed():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="cnnforge")
    assert script.load() is main


def test_load_plugins_says_what_is_not_loaded(install_plugin, capsys):
    install_plugin("broken", "1 / 0")
    install_plugin("future", "CNNFORGE_PLUGIN_API = 9")
    plugins = load_plugins()
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("warning: plugin 'broken' is not loaded: ZeroDivisionError")
    assert "plugin 'future'" in second
    assert "plugin API 9" in second
    assert "lenet" in plugins.models


def test_load_plugins_is_silent_about_what_the_user_disabled(monkeypatch, capsys):
    monkeypatch.setenv("CNNFORGE_DISABLED_PLUGINS", "builtin")
    assert "lenet" not in load_plugins(None).models
    assert capsys.readouterr() == ("", "")
