"""The `cnnforge` program: its commands and its error handling.

To add a command, write a file in this folder with one function of the same name, and add the
function to `_COMMANDS`. Declare its options with `Annotated` and Typer, and import heavy modules
inside the function. A group of commands is a `typer.Typer` in `_GROUPS`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cnnforge.cli import _ctrl_c, _settings, _streams
from cnnforge.cli.bench.bench import bench
from cnnforge.cli.compare.compare import compare
from cnnforge.cli.data.data import group as data
from cnnforge.cli.doctor.doctor import doctor
from cnnforge.cli.evaluate import evaluate
from cnnforge.cli.explain.explain import explain
from cnnforge.cli.explain.filter import filter
from cnnforge.cli.explain.report import report
from cnnforge.cli.export.export import export
from cnnforge.cli.plugins.plugins import group as plugins
from cnnforge.cli.predict.predict import predict
from cnnforge.cli.runs import runs
from cnnforge.cli.serve.serve import serve
from cnnforge.cli.sweep.sweep import sweep
from cnnforge.cli.train import train
from cnnforge.cli.verify import verify
from cnnforge.errors import CnnforgeError, UsageError

_COMMANDS = (
    train,
    evaluate,
    predict,
    explain,
    filter,
    report,
    serve,
    export,
    verify,
    compare,
    sweep,
    runs,
    bench,
    doctor,
)
_GROUPS = (data, plugins)

# Arguments with which no command does its work.
_NO_COMMAND = frozenset({"-h", "--help", "--version"})

# Training has messages of its own, with an estimate of the memory that it needs.
_OUT_OF_MEMORY = (
    "memory ran out: close other programs, or give this command fewer or smaller images"
)

# Click's class `ClickException`, the base class of all argument errors. Some versions of Typer
# depend on Click and others contain a copy of Click, so the class has no fixed import path.
_ArgumentError: Any = typer.BadParameter.__mro__[2]


class _Interrupted(CnnforgeError):
    def __init__(self) -> None:
        super().__init__(_ctrl_c.message())
        self.exit_code = _ctrl_c.exit_code()


class _Group(TyperGroup):
    """A group of commands that turns Ctrl-C into an error message. Typer would exit silently."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None


# `rich_markup_mode=None`, because otherwise Typer would import rich for every --help and every
# usage error.
app = typer.Typer(
    name="cnnforge",
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cnnforge {version('cnnforge')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train, evaluate and use convolutional networks on Numba kernels."""


for _command in _COMMANDS:
    app.command()(_command)
for _commands in _GROUPS:
    app.add_typer(_commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: The command line without the program's name; by default `sys.argv[1:]`.

    Returns:
        The exit code: 0 for success, 1 for failure, 2 for a usage error, 3 if a training gave
        values that are not finite, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 141 if
        the reader of stdout has closed it, or the code of a `typer.Exit` that a command raised.
    """
    if arguments is not None:
        return _main(list(arguments))
    _streams.open_missing()
    _ctrl_c.enable()
    try:
        code = _main(sys.argv[1:])
    except KeyboardInterrupt:
        # Ctrl-C was pressed before the command began, or twice.
        code = _fail(_ctrl_c.message(), _ctrl_c.exit_code())
    return _ctrl_c.finish(code)


def _main(arguments: list[str]) -> int:
    with _streams.prepared():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    program = typer.main.get_command(app)
    try:
        if arguments and _NO_COMMAND.isdisjoint(arguments):
            _settings.show_platform()
            checks = {"plugins", "check"} <= set(arguments)
            _settings.repair_environment(python_functions=checks)
        code = program.main(
            arguments or ["--help"],
            prog_name="cnnforge",
            standalone_mode=False,
            # For commands that start others with the same options.
            obj=arguments,
        )
        sys.stdout.flush()
    except _streams.OutputError as error:
        return error.exit_code if error.quiet else _fail(str(error), error.exit_code)
    except UsageError as error:
        from cnnforge.cli._advice import with_command

        return _fail(with_command(error, program, arguments), error.exit_code)
    except CnnforgeError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(_ctrl_c.message(), _ctrl_c.exit_code())
    except _ArgumentError as error:
        from cnnforge.cli._advice import explain

        return _fail(explain(error, program, arguments), error.exit_code)
    except Exception as error:
        from cnnforge.utils.available_memory import is_out_of_memory

        if _ctrl_c.was_interrupted():
            return _fail(_ctrl_c.message(), _ctrl_c.exit_code())
        if is_out_of_memory(error):
            return _fail(_OUT_OF_MEMORY, CnnforgeError.exit_code)
        raise
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    _ctrl_c.ignore()
    from cnnforge.cli import _render

    if _ctrl_c.was_interrupted():
        # After a Ctrl-C, a library may have caught KeyboardInterrupt and raised this error in its
        # place. So print the message of Ctrl-C, not that of the error.
        message, code = _ctrl_c.message(), _ctrl_c.exit_code()
    _render.error(message)
    return code
