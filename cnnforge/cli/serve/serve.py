"""The command `cnnforge serve`: serves the model of a run to a browser on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import (
    JsonOption,
    KernelsOption,
    PluginOption,
    TrustModelOption,
    find_run,
    load_plugins,
    print_json,
)

if TYPE_CHECKING:
    from cnnforge.cli._trained import Trained
    from cnnforge.serving.explanation import Explainer


def serve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or latest.")],
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 for any that is free.")
    ] = 8000,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address of this machine. Others than 127.0.0.1 are reached from other machines, "
            "which need a token.",
        ),
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Token of the requests.  [default: made if needed]"),
    ] = None,
    kernels: KernelsOption = "auto",
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    json: JsonOption = False,
) -> None:
    """Serve the model of a run: a page for pictures in a browser, and predictions for programs.

    It is for your desk, not for production. Nothing is written to the disk. Ctrl-C stops it.
    """
    _check_installed()
    run = find_run(run)
    from cnnforge.runs import RunDirectory

    directory = RunDirectory.open(run)
    from cnnforge.serving.address import open_address

    # Checked first, because opening the model may take seconds.
    address = open_address(host, port, token)
    try:
        from cnnforge.cli._trained import open_trained

        trained = open_trained(run, kernels, plugin, load_plugins)
        from importlib.metadata import version

        from cnnforge.serving.app import Facts, make_app
        from cnnforge.serving.connection import Server
        from cnnforge.serving.connection import run as run_server
        from cnnforge.serving.limits import Limits

        facts = Facts(
            run=run.resolve().name,
            model=str(directory.read_config()[0].get("model", "network")),
            task=trained.data.task.rpartition("/")[2],
            version=version("cnnforge"),
        )
        explainer = _explainer(run, trained, plugin or ())
        limits = Limits()
        app = make_app(
            trained.predictor, facts, access=address.access, limits=limits, explainer=explainer
        )
        _say(run, address.url, address.access.local, json)
        from cnnforge.cli import _ctrl_c

        with _ctrl_c.saving():
            number = run_server(Server(app, limits), address.listener)
    finally:
        address.listener.close()
    from cnnforge.cli import _render

    _render.message("the server has stopped")
    if number is not None:
        raise typer.Exit(128 + number)


def _check_installed() -> None:
    from importlib.util import find_spec

    from cnnforge.errors import CnnforgeError

    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise CnnforgeError(
            f"serve needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            "not installed; type: pip install 'cnnforge[serve]'"
        )


def _explainer(run: Path, trained: Trained, plugins: Any) -> Explainer | None:
    """Return what explains pictures, or `None` if the task has no explanations."""
    from cnnforge.cli.explain.explain import has_explanations
    from cnnforge.serving.explanation import Explainer

    if not has_explanations(trained.data, trained.plugins):
        return None
    from cnnforge.cli import _settings

    settings = _settings.keras_settings()
    if settings.error:
        return None
    # For the process that explains.
    _settings.before_import(settings)
    return Explainer(run.resolve(), trained.data, tuple(plugins))


def _say(run: Path, url: str, local: bool, json: bool) -> None:
    import sys

    from cnnforge.cli import _render

    if not local:
        _render.message(
            "warning: other machines reach this server; the connection is not encrypted, and "
            "everybody with the token can send pictures"
        )
    _render.message("this server is for your desk, not for production; Ctrl-C stops it")
    _render.message(f"{run} is served at:")
    if json:
        print_json({"run": str(run), "url": url})
    else:
        typer.echo(url)
    # A program that started this one waits for the address.
    sys.stdout.flush()
