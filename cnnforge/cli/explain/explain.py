"""The command `cnnforge explain`: shows how the network of a run sees a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnforge.cli._common import (
    JsonOption,
    PluginOption,
    TrustModelOption,
    check_file,
    default_file,
    find_run,
    load_plugins,
    print_json,
)

if TYPE_CHECKING:
    from cnnforge.explaining.building import Explained
    from cnnforge.plugin_host.discovery import Plugins
    from cnnforge.prediction import RunData


_DETECTION = "builtin/detection"


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or latest.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write the page here.  [default: explained.html]"),
    ] = None,
    plugin: PluginOption = None,
    trust_model: TrustModelOption = False,
    json: JsonOption = False,
) -> None:
    """Show how the network of a run comes to its answer for a picture, in one web page.

    The page shows each step from the picture to the probabilities or boxes, and the parts of the
    picture that matter; for a classification also similar training pictures. It is one file, loads
    nothing, and needs no server.
    """
    image = image.expanduser()
    if output is None:
        output = default_file(Path(), "explained", ".html")
    else:
        output = check_file("--output", output, ".html", "the page is an HTML file")
    run = find_run(run)
    # Checked first, because the import of Keras takes seconds.
    loaded = _read(image)
    from cnnforge.cli._trained import open_run

    opened, trained_on, plugins, _ = open_run(run, plugin, load_plugins)
    _check_task(run, trained_on, plugins)
    from cnnforge.cli._import_keras import import_keras

    import_keras()
    from cnnforge.explaining.opening import explain_picture

    made = explain_picture(opened, trained_on, plugins, str(image), loaded, image.name)
    _write(output, made.text)
    facts = _facts(run, image, output, made)
    if json:
        print_json(facts)
        return
    _say(facts, made)


def _read(path: Path) -> Any:
    """Read a picture in its own size: (H, W, C) uint8."""
    from cnnforge.data import printable
    from cnnforge.data.images import check_image, read_image
    from cnnforge.errors import UsageError

    if path.is_dir():
        raise UsageError(f"{printable(str(path))} is a folder: name one image file")
    checked = check_image(str(path))
    return read_image(str(path), (*checked.size, 1 if checked.grayscale else 3))


def has_explanations(trained_on: RunData, plugins: Plugins) -> bool:
    """Return whether there is a page for the task of a run."""
    from cnnforge.plugin import DEFAULT_TASK

    return any(plugins.tasks.same(trained_on.task, each) for each in (DEFAULT_TASK, _DETECTION))


def _check_task(run: Path, trained_on: RunData, plugins: Plugins) -> None:
    from cnnforge.errors import UsageError

    if not has_explanations(trained_on, plugins):
        raise UsageError(
            f"the run {run} is for the task {trained_on.task.rpartition('/')[2]!r}, and explain "
            "shows networks of the tasks 'classification' and 'detection': choose another run, see "
            "'cnnforge runs'"
        )


def _write(path: Path, text: str) -> None:
    from cnnforge.errors import CnnforgeError
    from cnnforge.utils.atomic_files import write_text

    try:
        write_text(path, text)
    except OSError as error:
        raise CnnforgeError(
            f"{path} could not be written: {error.strerror or error}; choose another file"
        ) from error


def _facts(run: Path, image: Path, output: Path, made: Explained) -> dict[str, Any]:
    return {
        "run": str(run),
        "image": str(image),
        "output": str(output),
        "bytes": len(made.text.encode("utf-8")),
        "computes": made.alive,
        **made.found,
        "maps": [
            {
                "method": each.method,
                "layer": each.layer,
                "class": made.labels[each.target],
                "correlation": each.correlation,
                "passed": each.means_something,
            }
            for each in made.maps
        ],
        "left_out": list(made.left_out),
    }


def _say(facts: dict[str, Any], made: Explained) -> None:
    from cnnforge.cli import _render
    from cnnforge.data import printable

    _render.message(printable(made.summary))
    failed = [each for each in made.maps if not each.means_something]
    if failed:
        _render.message(
            f"note: the check with random last layers fails for {len(failed)} of {len(made.maps)} "
            "maps; the page says which of them mean nothing"
        )
    for each in made.left_out:
        _render.message(f"the page leaves out: {each}")
    _render.message(f"{facts['bytes'] / 1e6:.2f} MB; open it in a browser")
    typer.echo(facts["output"])
